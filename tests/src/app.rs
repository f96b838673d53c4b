//! The built binary as a running process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatapi_testkit::Database;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::{Answer, Tenant};

/// The master key of every server in the tests.
pub const MASTER_KEY: &str = "the-master-key-of-the-end-to-end-tests";

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The binary under test: built before the tests are run.
#[must_use]
pub fn binary() -> PathBuf {
    // target/<profile>/deps/it-… -> target/<profile>/chatapi
    let test = std::env::current_exe().expect("the test's own path");
    let binary = test.ancestors().nth(2).expect("a target folder").join("chatapi");
    assert!(binary.exists(), "{} is missing: cargo build -p chatapi", binary.display());
    binary
}

/// How a server is to be started.
#[derive(Debug)]
pub struct Builder {
    variables: HashMap<String, String>,
    embedded: bool,
}

/// A running server.
#[derive(Debug)]
pub struct App {
    /// What requests go to.
    pub url: String,
    client: Client,
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    database: Option<Arc<Database>>,
    folder: Arc<TempDir>,
    builder: Builder,
}

impl App {
    /// A server on a database of its own.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A server with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        let variables = [
            ("MASTER_API_KEY", MASTER_KEY),
            ("LISTEN_ADDR", "127.0.0.1:0"),
            ("LOG_LEVEL", "debug"),
            // What a test does not look at must not stand in its way.
            ("DEFAULT_RATE_LIMIT", "1000000"),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Builder { variables, embedded: false }
    }

    /// Another server on the same database.
    pub async fn second_node(&self) -> Self {
        let builder = Builder { variables: self.builder.variables.clone(), embedded: false };
        builder.launch(self.database.clone(), self.folder.clone()).await
    }

    /// Asks something with these headers.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// A request to be finished by hand.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// Asks as the operator.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(method, path, &[("X-Master-Key", MASTER_KEY)], body).await
    }

    /// A request of the operator, to be finished by hand.
    pub fn admin_request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.request(method, path).header("X-Master-Key", MASTER_KEY)
    }

    /// A whole tenant.
    pub async fn export(&self, tenant: &str) -> Vec<u8> {
        let request = self.admin_request("GET", &format!("/admin/tenants/{tenant}/export"));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("the body arrives").to_vec()
    }

    /// Sends a request that was finished by hand.
    pub async fn read(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// Imports what was exported; `query` may name another id, `?tenant_id=…`.
    pub async fn import(&self, query: &str, file: impl Into<reqwest::Body>) -> Answer {
        let request = self.admin_request("POST", &format!("/admin/tenants/import{query}"));
        self.read(request.header("Content-Type", "application/x-ndjson").body(file)).await
    }

    /// Asks without credentials.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// A new tenant.
    pub async fn tenant(&self, name: &str) -> Tenant<'_> {
        self.tenant_with(name, json!({})).await
    }

    /// A new tenant with settings.
    pub async fn tenant_with(&self, name: &str, config: Value) -> Tenant<'_> {
        let body = json!({ "name": name, "config": config });
        let made = self.admin("POST", "/admin/tenants", Some(body)).await.expect(201);
        Tenant { app: self, id: made.text_of("tenant_id"), key: made.text_of("api_key") }
    }

    /// The URL of the server's database, if that is not embedded.
    #[must_use]
    pub fn database_url(&self) -> Option<String> {
        self.database.as_ref().map(|database| database.url().to_owned())
    }

    /// A plain connection to the server's database.
    pub async fn sql(&self) -> tokio_postgres::Client {
        self.database.as_ref().expect("not embedded").client().await
    }

    /// The log lines so far that hold this text.
    #[must_use]
    pub fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().expect("not poisoned");
        log.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Waits until a log line holds this text, and returns it as JSON.
    pub async fn wait_for_log(&self, text: &str) -> Value {
        let start = Instant::now();
        loop {
            if let Some(line) = self.logged(text).pop() {
                return serde_json::from_str(&line).unwrap_or(Value::String(line));
            }
            assert!(start.elapsed() < PATIENCE, "never logged: {text}\n{:#?}", self.logged(""));
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// The data folder of an embedded database.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Sends a signal and waits for the end: the exit code, none if a signal ended it.
    pub async fn signal(&mut self, signal: &str) -> Option<i32> {
        kill(signal, self.pid());
        self.ended().await
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.process.wait()).await.expect("it ends in time").expect("it can be waited for").code()
    }

    /// Starts again, with the same settings, on the same database.
    pub async fn restart(self) -> Self {
        let (database, folder) = (self.database.clone(), self.folder.clone());
        let builder = Builder { variables: self.builder.variables.clone(), embedded: self.builder.embedded };
        builder.launch(database, folder).await
    }

    /// Waits until the server is ready.
    pub async fn ready(&self) {
        let start = Instant::now();
        while self.get("/readyz").await.status != 200 {
            assert!(start.elapsed() < PATIENCE, "never ready: {:#?}", self.logged(""));
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sends a signal to a process.
fn kill(signal: &str, pid: u32) {
    let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.expect("kill runs").success(), "no process {pid}");
}

impl Builder {
    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Does not set a variable.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Lets the server run a database of its own.
    #[must_use]
    pub fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(self) -> App {
        let database = if self.embedded { None } else { Some(Arc::new(Database::new().await)) };
        let app = self.launch(database, folder()).await;
        app.ready().await;
        app
    }

    /// Runs the server to its end: exit code, and all it said.
    pub async fn run(self, data_dir: Option<&Path>) -> (Option<i32>, String) {
        let folder = folder();
        let mut command = self.command(folder.path(), None);
        if let Some(data_dir) = data_dir {
            command.env("DATA_DIR", data_dir);
        }
        let running = command.stderr(Stdio::piped()).output();
        let output = timeout(PATIENCE, running).await.expect("it ends in time").expect("it starts");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    }

    fn command(&self, folder: &Path, database: Option<&Database>) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("DATA_DIR", folder.join("data")).current_dir(folder);
        if let Some(database) = database {
            command.env("DATABASE_URL", database.url());
        }
        command.envs(&self.variables).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn launch(self, database: Option<Arc<Database>>, folder: Arc<TempDir>) -> App {
        let mut process = self.command(folder.path(), database.as_deref()).spawn().expect("the server starts");
        let stdout = process.stdout.take().expect("it is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        #[expect(clippy::disallowed_methods, reason = "ends with the process")]
        tokio::spawn(collect(stdout, log.clone()));
        let client = Client::builder().timeout(PATIENCE).no_proxy().build().expect("a client");
        let mut app = App { url: String::new(), client, process, log, database, folder, builder: self };
        let listening = app.wait_for_log("\"Listening\"").await;
        app.url = format!("http://{}", listening["address"].as_str().expect("an address"));
        app
    }
}

/// A folder that the user postgres can reach too.
fn folder() -> Arc<TempDir> {
    let folder = tempfile::Builder::new().prefix("chatapi-e2e-").tempdir().expect("a temporary folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("our own folder");
    Arc::new(folder)
}

async fn collect(stdout: ChildStdout, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.lock().expect("not poisoned").push(line);
    }
    let mut rest = Vec::new();
    let _ = lines.into_inner().read_to_end(&mut rest).await;
}

impl Drop for App {
    fn drop(&mut self) {
        if !self.builder.embedded {
            return;
        }
        // A killed server leaves its database running: the test takes that with it.
        let _ = self.process.start_kill();
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).unwrap_or_default();
        if Arc::strong_count(&self.folder) == 1
            && let Some(pid) = file.lines().next()
        {
            let _ = std::process::Command::new("kill").args(["-QUIT", pid]).stderr(Stdio::null()).status();
        }
    }
}
