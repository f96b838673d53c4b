//! A WebSocket, frame by frame: what the Rust client hides, these tests look at.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::{App, Caller};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Events that came while something else was waited for.
    before: VecDeque<Value>,
    asked: u64,
}

/// What a handshake was refused with.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The body, `null` if it is none.
    pub body: Value,
}

impl Socket {
    /// Opens `/ws` with this query (`?…` or nothing) and these headers.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the answer is not `101`.
    pub async fn try_open(app: &App, query: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        let address = app.url.trim_start_matches("http://").to_owned();
        let mut request = format!("ws://{address}/ws{query}").into_client_request().expect("a request");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
        }
        let tcp = TcpStream::connect(&address).await.expect("it listens");
        tcp.set_nodelay(true).expect("set");
        match timeout(PATIENCE, client_async(request, tcp)).await.expect("an answer in time") {
            Ok((stream, _)) => Ok(Self { stream, before: VecDeque::new(), asked: 0 }),
            Err(Error::Http(response)) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                Err(Refused { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
            }
            Err(error) => panic!("no handshake: {error}"),
        }
    }

    /// Opens it and takes the first frame, which must be `connected`.
    pub async fn open(app: &App, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut socket = Self::try_open(app, query, headers).await.expect("it opens");
        let first = socket.next().await;
        assert_eq!(first["type"], "connected", "{first}");
        socket
    }

    /// Sends a text frame.
    pub async fn send(&mut self, command: Value) {
        self.send_text(&command.to_string()).await;
    }

    /// Sends a text frame, if the connection still takes one.
    pub async fn try_send(&mut self, command: Value) -> bool {
        timeout(PATIENCE, self.stream.send(Message::text(command.to_string()))).await.is_ok_and(|sent| sent.is_ok())
    }

    /// Whether the first frame is `connected`, not a close.
    pub async fn is_let_in(&mut self) -> bool {
        match timeout(PATIENCE, self.stream.next()).await.expect("a frame in time") {
            Some(Ok(Message::Text(text))) => text.contains("\"connected\""),
            _ => false,
        }
    }

    /// Sends any text.
    pub async fn send_text(&mut self, text: &str) {
        self.send_frame(Message::text(text)).await;
    }

    /// Sends any frame.
    pub async fn send_frame(&mut self, frame: Message) {
        timeout(PATIENCE, self.stream.send(frame)).await.expect("sent in time").expect("sent");
    }

    /// The next event.
    pub async fn next(&mut self) -> Value {
        match self.before.pop_front() {
            Some(event) => event,
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Value {
        loop {
            let frame = timeout(PATIENCE, self.stream.next()).await.expect("an event in time");
            match frame.expect("still open").expect("no error") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next event of this type; those before it are dropped.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await;
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Sends a command with a `request_id`, and waits for its answer: `ok`, `error`, `pong` or
    /// `sync.done`. What comes before that is kept for [`Socket::next`].
    pub async fn ask(&mut self, mut command: Value) -> Value {
        self.asked += 1;
        let id = format!("r-{}", self.asked);
        command["request_id"] = json!(id);
        self.send(command).await;
        loop {
            let event = self.receive().await;
            if event["request_id"] == json!(id) {
                return event;
            }
            self.before.push_back(event);
        }
    }

    /// Events until one of this type has come, that one excluded.
    pub async fn until(&mut self, kind: &str) -> (Vec<Value>, Value) {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            if event["type"] == kind {
                return (events, event);
            }
            events.push(event);
        }
    }

    /// Fails if an event of this type comes before a `ping` is answered that is sent now, and
    /// after `pause`.
    pub async fn hears_no(&mut self, kind: &str, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.send(json!({"type": "ping"})).await;
        let (events, _) = self.until("pong").await;
        assert!(events.iter().all(|event| event["type"] != kind), "{events:?}");
    }

    /// Waits for the end: the code and reason of the close frame; 1006 if none came.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match timeout(PATIENCE, self.stream.next()).await.expect("it ends in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.as_str().to_owned());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (1006, String::new()),
            }
        }
    }
}

impl Caller<'_> {
    /// Opens a WebSocket as this user, by the tenant's key.
    pub async fn socket(&self) -> Socket {
        let (key, user) = (self.key().to_owned(), self.user_id().expect("a user"));
        Socket::open(self.app(), "", &[("X-API-Key", &key), ("X-User-Id", &user)]).await
    }
}
