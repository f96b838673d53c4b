//! A server that keeps the contract, or breaks it as a test likes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Frame};
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::world::World;

/// What a test tells the server's end of a connection.
enum Order {
    Send(Value),
    Close(u16),
    Drop,
    /// To say nothing any more, and to hear nothing.
    Hang,
}

pub(crate) struct State {
    pub(crate) world: World,
    sessions: Vec<mpsc::Sender<Order>>,
    /// Messages or changes in one answer to a sync.
    pub(crate) page: usize,
    /// Rooms in one page of a list.
    pub(crate) list_page: usize,
    /// Whether a sync sends again what the connection was sent before.
    pub(crate) repeats: bool,
    /// Whether a sender's own connection gets the message.
    pub(crate) echoes: bool,
    /// Statuses for the next handshakes.
    pub(crate) refusals: VecDeque<u16>,
    /// What happens to the next messages that are sent: lost before they are stored, or after.
    pub(crate) losses: VecDeque<Loss>,
    /// The code that the next command of a kind is refused with.
    pub(crate) errors: VecDeque<(&'static str, &'static str)>,
    pub(crate) heartbeat: f64,
    /// First lines and headers of requests.
    pub(crate) requests: Vec<String>,
    /// Frames that came.
    pub(crate) frames: Vec<Value>,
    late: Vec<Value>,
}

#[derive(Clone, Copy)]
pub(crate) enum Loss {
    Request,
    Answer,
}

/// How a live event travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Once,
    Twice,
    /// After the next one.
    Late,
    Never,
}

pub(crate) struct Server {
    pub(crate) base: String,
    state: Arc<Mutex<State>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    /// A server with one room, `room_a`, of three messages.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let mut world = World::default();
        world.add("room_a");
        for content in ["a1", "a2", "a3"] {
            world.say("room_a", content, None);
        }
        let state = Arc::new(Mutex::new(State {
            world,
            sessions: Vec::new(),
            page: 100,
            list_page: 100,
            repeats: false,
            echoes: true,
            refusals: VecDeque::new(),
            losses: VecDeque::new(),
            errors: VecDeque::new(),
            heartbeat: 30.0,
            requests: Vec::new(),
            frames: Vec::new(),
            late: Vec::new(),
        }));
        let tasks = TaskTracker::new();
        let accepting = tasks.spawn({
            let (state, tasks) = (state.clone(), tasks.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = state.clone();
                    // A connection that breaks is what this is for.
                    tasks.spawn(async move { serve(stream, &state).await.unwrap_or_default() });
                }
            }
        });
        Self { base, state, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test has failed with it")
    }

    /// Somebody sends a message.
    pub(crate) fn say(&self, room: &str, content: &str, way: Way) -> i64 {
        let mut state = self.state();
        let seq = state.world.say(room, content, None);
        let event = state.world.message_event(room, seq);
        state.publish(event, way);
        seq
    }

    /// Somebody edits a message, or deletes it.
    pub(crate) fn change(&self, room: &str, seq: i64, content: Option<&str>, way: Way) {
        let mut state = self.state();
        let event = state.world.change(room, seq, content);
        state.publish(event, way);
    }

    pub(crate) fn send(&self, event: &Value) {
        self.state().order(|| Order::Send(event.clone()));
    }

    pub(crate) fn close(&self, code: u16) {
        self.state().order(|| Order::Close(code));
    }

    pub(crate) fn cut(&self) {
        self.state().order(|| Order::Drop);
    }

    pub(crate) fn hang(&self) {
        self.state().order(|| Order::Hang);
    }
}

impl State {
    fn order(&mut self, order: impl Fn() -> Order) {
        self.sessions.retain(|session| session.try_send(order()).is_ok());
    }

    fn publish(&mut self, event: Value, way: Way) {
        let mut now = match way {
            Way::Once => vec![event],
            Way::Twice => vec![event.clone(), event],
            Way::Late => return self.late.push(event),
            Way::Never => vec![],
        };
        now.append(&mut self.late);
        for event in now {
            self.order(|| Order::Send(event.clone()));
        }
    }

    /// The kinds of the commands that came.
    pub(crate) fn kinds(&self) -> Vec<&str> {
        self.frames.iter().filter_map(|frame| frame["type"].as_str()).collect()
    }

    fn answer_http(&self, path: &str) -> (u16, Value) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let query: HashMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let parameter = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
        let parts: Vec<_> = path.split('/').skip(1).collect();
        match *parts {
            ["rooms"] => {
                let from = usize::try_from(parameter("cursor").unwrap_or(0)).expect("small");
                let (rooms, to) = (self.world.list(), from + self.list_page);
                let cursor = (to < rooms.len()).then(|| to.to_string());
                let page: Vec<_> = rooms.into_iter().skip(from).take(self.list_page).collect();
                (200, json!({"rooms": page, "next_cursor": cursor}))
            }
            ["rooms", room] if self.world.rooms.contains_key(room) => (200, self.world.room(room)),
            ["rooms", room, "messages"] if self.world.rooms.contains_key(room) => {
                let (after, before) =
                    (parameter("after_seq").unwrap_or(0), parameter("before_seq").unwrap_or(i64::MAX));
                (200, self.world.history(room, after, before, 100))
            }
            _ => (404, json!({"error": "not_found", "message": "Not found", "request_id": "req_1"})),
        }
    }
}

/// The head of a request, left where it is.
async fn head(stream: &TcpStream) -> Option<String> {
    let mut buffer = vec![0; 8192];
    loop {
        let length = stream.peek(&mut buffer).await.ok().filter(|length| *length > 0)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            return Some(head.to_owned());
        }
        tokio::task::yield_now().await;
    }
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let lock = || state.lock().expect("no test has failed with it");
    let head = head(&stream).await?;
    let path = head.split(' ').nth(1)?.to_owned();
    lock().requests.push(head.clone());
    let (status, body) = if path.starts_with("/ws") {
        match lock().refusals.pop_front() {
            None => (101, Value::Null),
            Some(status) => (status, json!({"error": "refused", "message": "No", "request_id": "req_1"})),
        }
    } else {
        lock().answer_http(&path)
    };
    if status == 101 {
        return Session::open(stream, state).await?.run().await;
    }
    let _ = stream.read(&mut vec![0; head.len() + 4]).await;
    let body = body.to_string();
    let answer = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.ok()
}

/// The server's end of a connection.
struct Session<'a> {
    socket: WebSocketStream<TcpStream>,
    orders: mpsc::Receiver<Order>,
    state: &'a Mutex<State>,
    /// What this connection was sent: room, kind, number.
    sent: HashSet<(String, bool, i64)>,
}

impl<'a> Session<'a> {
    async fn open(stream: TcpStream, state: &'a Mutex<State>) -> Option<Self> {
        let socket = accept_async(stream).await.ok()?;
        let (sender, orders) = mpsc::channel(10_000);
        let mut session = Self { socket, orders, state, sent: HashSet::new() };
        let heartbeat = {
            let mut state = session.lock();
            state.sessions.push(sender);
            state.heartbeat
        };
        let greeting = json!({"type": "connected", "connection_id": "conn_1", "user_id": "alice",
            "heartbeat_seconds": heartbeat});
        session.send(greeting).await?;
        Some(session)
    }

    fn lock(&self) -> MutexGuard<'a, State> {
        self.state.lock().expect("no test has failed with it")
    }

    async fn run(mut self) -> Option<()> {
        loop {
            tokio::select! {
                order = self.orders.recv() => match order? {
                    Order::Send(event) => self.send(event).await?,
                    Order::Drop => return None,
                    Order::Hang => std::future::pending().await,
                    Order::Close(code) => {
                        let frame = CloseFrame { code: code.into(), reason: "because".into() };
                        self.socket.close(Some(frame)).await.ok()?;
                        while self.socket.next().await.is_some_and(|frame| frame.is_ok()) {}
                        return None;
                    }
                },
                frame = self.socket.next() => {
                    if let Frame::Text(text) = frame?.ok()? {
                        self.command(&serde_json::from_str(&text).ok()?).await?;
                    }
                }
            }
        }
    }

    async fn send(&mut self, event: Value) -> Option<()> {
        if let Some(place) = place(&event) {
            self.sent.insert(place);
        }
        self.socket.send(Frame::text(event.to_string())).await.ok()
    }

    async fn command(&mut self, command: &Value) -> Option<()> {
        let (kind, id) = (command["type"].as_str()?, command["request_id"].clone());
        let refused = {
            let mut state = self.lock();
            state.frames.push(command.clone());
            let is_next = state.errors.front().is_some_and(|(refused, _)| *refused == kind);
            if is_next { state.errors.pop_front() } else { None }
        };
        if let Some((_, code)) = refused {
            return self.send(json!({"type": "error", "request_id": id, "code": code, "message": "No"})).await;
        }
        match kind {
            "sync" => self.sync(command, id).await,
            "send_message" => self.message(command, id).await,
            "ack" => {
                let seq = &command["seq"];
                self.send(json!({"type": "ok", "request_id": id, "delivered_seq": seq, "read_seq": 0})).await
            }
            "refresh" => self.send(json!({"type": "ok", "request_id": id, "expires_at": "later"})).await,
            _ => self.send(json!({"type": "ok", "request_id": id})).await,
        }
    }

    async fn message(&mut self, command: &Value, id: Value) -> Option<()> {
        let (room, content) = (command["room_id"].as_str()?, command["content"].as_str()?);
        let message = {
            let mut state = self.lock();
            let loss = state.losses.pop_front();
            if matches!(loss, Some(Loss::Request)) {
                return None;
            }
            let before = state.world.log(room).last_seq();
            let seq = state.world.say(room, content, command["client_message_id"].as_str());
            if matches!(loss, Some(Loss::Answer)) {
                return None;
            }
            if state.echoes && seq > before {
                let event = state.world.message_event(room, seq);
                state.publish(event, Way::Once);
            }
            state.world.message(room, seq)
        };
        self.send(json!({"type": "ok", "request_id": id, "message": message})).await
    }

    async fn sync(&mut self, command: &Value, id: Value) -> Option<()> {
        let mut events = Vec::new();
        let mut rooms = BTreeMap::new();
        {
            let state = self.lock();
            for (room, after) in command["rooms"].as_object()? {
                if state.world.rooms.get(room).is_none_or(|log| log.hidden) {
                    rooms.insert(room.clone(), json!({"error": "not_found"}));
                    continue;
                }
                let (seq, change) = (after["after_seq"].as_i64()?, after["after_change"].as_i64()?);
                let (missed, reached) = state.world.missed(room, seq, change, state.page);
                let is_new =
                    |event: &Value| state.repeats || place(event).is_none_or(|place| !self.sent.contains(&place));
                events.extend(missed.into_iter().filter(is_new));
                rooms.insert(room.clone(), reached);
            }
        }
        for event in events {
            self.send(event).await?;
        }
        self.send(json!({"type": "sync.done", "request_id": id, "rooms": rooms})).await
    }
}

/// What an event is, if it is numbered.
fn place(event: &Value) -> Option<(String, bool, i64)> {
    let (is_change, number) = match event["type"].as_str()? {
        "message" => (false, event["seq"].as_i64()?),
        "message.edited" | "message.deleted" => (true, event["change"].as_i64()?),
        _ => return None,
    };
    Some((event["room_id"].as_str()?.to_owned(), is_change, number))
}
