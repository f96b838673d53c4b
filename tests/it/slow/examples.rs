//! The examples of docs/websocket.md and docs/webhooks.md run as they stand.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatapi_tests::App;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const WEBSOCKET: &str = include_str!("../../../docs/websocket.md");
const WEBHOOKS: &str = include_str!("../../../docs/webhooks.md");

/// The first block of the page in this language.
fn example(page: &str, language: &str) -> String {
    let (_, after) = page.split_once(&format!("```{language}\n")).expect("a block");
    after.split_once("\n```").expect("its end").0.to_owned()
}

/// Writes what it is told into the page, and reports what the page shows: a person at a browser.
const PERSON: &str = r##"
<script type="module">
setInterval(async () => {
  const shown = [...document.querySelectorAll("#messages li")].map((item) => item.textContent);
  const answer = await fetch("/person", { method: "POST", body: JSON.stringify(shown) });
  for (const text of await answer.json()) {
    document.getElementById("text").value = text;
    document.getElementById("form").requestSubmit();
  }
}, 100);
</script>"##;

/// A tenant's own site: serves the page and fetches tokens for it.
#[derive(Clone)]
struct Site {
    address: String,
    key: Arc<Mutex<String>>,
    server: Arc<Mutex<String>>,
    shown: Arc<Mutex<Vec<String>>>,
    to_write: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let site = Self {
            address,
            key: Arc::default(),
            server: Arc::default(),
            shown: Arc::default(),
            to_write: Arc::default(),
        };
        let serving = site.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().answer(stream));
            }
        });
        site
    }

    /// Answers one request of the browser.
    async fn answer(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let (head, body) = loop {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.to_lowercase();
            let length = length.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        };
        let (status, kind, answer) = match head.split(' ').nth(1).unwrap_or_default() {
            path if path.starts_with("/?") => ("200 OK", "text/html", example(WEBSOCKET, "html") + PERSON),
            "/token" => match self.token().await {
                Some(token) => ("200 OK", "application/json", token),
                None => ("503 Service Unavailable", "text/plain", "later".to_owned()),
            },
            "/person" => {
                *self.shown.lock().expect("not poisoned") = serde_json::from_str(&body).unwrap_or_default();
                let to_write = std::mem::take(&mut *self.to_write.lock().expect("not poisoned"));
                ("200 OK", "application/json", json!(to_write).to_string())
            }
            _ => ("404 Not Found", "text/plain", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        let _ = stream.write_all((head + &answer).as_bytes()).await;
    }

    /// What the tenant's backend does for a user it knows.
    async fn token(&self) -> Option<String> {
        let url = format!("{}/tokens", self.server.lock().expect("not poisoned"));
        let key = self.key.lock().expect("not poisoned").clone();
        let request = reqwest::Client::new().post(url).header("X-API-Key", key).json(&json!({"user_id": "alice"}));
        request.send().await.ok()?.text().await.ok()
    }

    async fn wait_until_shown(&self, text: &str) {
        let start = Instant::now();
        loop {
            let shown = self.shown.lock().expect("not poisoned").clone();
            if shown.last().is_some_and(|last| last == text) {
                return;
            }
            assert!(start.elapsed() < Duration::from_mins(1), "{text} is not the last of {shown:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn write(&self, text: &str) {
        self.to_write.lock().expect("not poisoned").push(text.to_owned());
    }
}

fn browser(folder: &Path, url: &str) -> Child {
    let flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ];
    Command::new("chromium")
        .args(flags)
        .arg(format!("--user-data-dir={}", folder.display()))
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("chromium is installed: .ci/setup slow")
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn the_page_sends_receives_and_comes_back_after_a_restart_in_a_real_browser() {
    let site = Site::start().await;
    let app =
        App::builder().set("LISTEN_ADDR", &free_port()).set("ALLOWED_ORIGINS", &format!("http://{}", site.address));
    let mut app = app.start().await;
    let (room, key) = {
        let tenant = app.tenant("t").await;
        (tenant.room("dm", &["alice", "bob"]).await, tenant.key.clone())
    };
    *site.key.lock().expect("not poisoned") = key.clone();
    *site.server.lock().expect("not poisoned") = app.url.clone();
    let socket = app.url.replace("http://", "ws://");
    let folder = tempfile::tempdir().expect("a folder");
    let bob = |app: &App, text: &'static str| {
        let request = app.request("POST", &format!("/rooms/{room}/messages")).header("X-API-Key", &key);
        let request = request.header("X-User-Id", "bob").json(&json!({"content": text}));
        async move { assert_eq!(request.send().await.expect("an answer").status(), 201) }
    };
    bob(&app, "before you came").await;

    let _browser = browser(folder.path(), &format!("http://{}/?url={socket}&room={room}", site.address));
    site.wait_until_shown("bob: before you came").await;
    site.write("hello from a browser");
    site.wait_until_shown("alice: hello from a browser").await;
    bob(&app, "hello from bob").await;
    site.wait_until_shown("bob: hello from bob").await;
    app.signal("KILL").await;
    site.write("while you were away");
    let app = app.restart().await;
    app.ready().await;
    site.wait_until_shown("alice: while you were away").await;
    bob(&app, "welcome back").await;
    site.wait_until_shown("bob: welcome back").await;

    let headers = [("X-API-Key", key.as_str()), ("X-User-Id", "bob")];
    let history = app.send("GET", &format!("/rooms/{room}/messages"), &headers, None).await.expect(200);
    let stored: Vec<String> = history
        .each("messages", "sender_id")
        .iter()
        .zip(history.each("messages", "content"))
        .map(|(sender, content)| format!("{}: {}", sender.as_str().expect("a user"), content.as_str().expect("a text")))
        .collect();
    assert_eq!(*site.shown.lock().expect("not poisoned"), stored, "the page shows what there is, each once, in order");
}

/// How this machine's Node has a `WebSocket`.
async fn node(script: &Path) -> Command {
    let version = Command::new("node").arg("--version").output().await.expect("node is installed: .ci/setup slow");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let major: u32 = version.trim_start_matches('v').split('.').next().and_then(|v| v.parse().ok()).expect("a version");
    let mut command = Command::new("node");
    match major {
        22.. => {}
        20..22 => _ = command.arg("--experimental-websocket"),
        _ => {
            // Debian's package node-ws.
            let shim = script.with_file_name("websocket.cjs");
            std::fs::write(&shim, "globalThis.WebSocket = require('/usr/share/nodejs/ws');").expect("written");
            command.arg("--require").arg(shim);
        }
    }
    command.arg(script).kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_node_program_answers_once_also_what_was_asked_while_it_was_away() {
    let mut app = App::builder().set("LISTEN_ADDR", &free_port()).start().await;
    let (room, key) = {
        let tenant = app.tenant("t").await;
        (tenant.room("dm", &["alice", "bot"]).await, tenant.key.clone())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("echo.mjs");
    std::fs::write(&script, example(WEBSOCKET, "js")).expect("written");
    let headers = [("X-API-Key", key.as_str()), ("X-User-Id", "alice")];
    let path = format!("/rooms/{room}/messages");
    let pongs = async |app: &App, expected: usize| {
        let start = Instant::now();
        loop {
            let history = app.send("GET", &path, &headers, None).await.expect(200);
            let contents = history.each("messages", "content");
            let found = contents.iter().filter(|content| content.as_str() == Some("pong")).count();
            if found >= expected {
                assert_eq!(found, expected, "{contents:?}");
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{contents:?}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ping =
        async |app: &App| _ = app.send("POST", &path, &headers, Some(json!({"content": "ping"}))).await.expect(201);
    ping(&app).await;

    let mut program = node(&script).await;
    let _running = program.args([&app.url, "bot"]).env("CHATAPI_KEY", &key).spawn().expect("node runs");
    pongs(&app, 1).await;
    ping(&app).await;
    pongs(&app, 2).await;
    app.signal("KILL").await;
    let app = app.restart().await;
    app.ready().await;
    ping(&app).await;
    pongs(&app, 3).await;
    sleep(Duration::from_secs(1)).await;
    pongs(&app, 3).await;
}

#[tokio::test]
async fn the_receiver_takes_what_is_signed_and_refuses_the_rest() {
    let app = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("receiver.mjs");
    std::fs::write(&script, example(WEBHOOKS, "js")).expect("written");
    let address = free_port();
    let port = address.rsplit_once(':').expect("a port").1;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut program = node(&script).await;
    program.env("WEBHOOK_SECRET", secret).env("PORT", port).stdout(Stdio::piped());
    let mut running = program.spawn().expect("node runs");
    let mut lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("listening"));
    let config = json!({"webhook_url": format!("http://127.0.0.1:{port}/"), "webhook_secret": secret});
    let tenant = app.tenant_with("t", config).await;
    let test = async || tenant.backend().post("/tenant/webhook/test", json!({})).await.expect(200);

    assert_eq!(test().await.body["delivered"], true);
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("ping  "));
    let room = tenant.room("dm", &["alice", "bob"]).await;
    tenant.user("alice").say(&room, "wake up").await;
    assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some("message.new [ 'bob' ] wake up"));
    // With a new secret beside the old one it is still let in; with another alone it is not.
    tenant.backend().patch("/tenant", json!({"config": {"webhook_secret": "new"}})).await.expect(200);
    assert_eq!(test().await.body["delivered"], true);
    let forget = "update tenants set config = config - 'webhook_old_secrets'";
    app.sql().await.execute(forget, &[]).await.expect("updated");
    let refused = test().await;
    assert_eq!((&refused.body["delivered"], &refused.body["status"]), (&json!(false), &json!(401)));
}
