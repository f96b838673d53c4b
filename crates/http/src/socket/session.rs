//! The loop of one connection.

use std::collections::VecDeque;
use std::future::pending;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatapi_auth::{Caller, Denied};
use chatapi_domain::NewMessage;
use chatapi_realtime::{Answer, Fetch, Outgoing, Session, Step, Stop, Sync};
use chatapi_storage::Result as StoreResult;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message, Utf8Bytes};

use super::Socket;
use super::close::Close;
use super::command::{self, Then};
use super::frame::{self, text_frame};
use crate::api::Api;
use crate::clock;
use crate::error::ApiError;

/// How often the client is asked whether it is there; told to it in `connected`.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// A client that says nothing for this long is gone.
const SILENCE: Duration = Duration::from_mins(1);

/// A client that takes nothing for this long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// So long commands may go on over the rate limit before the connection is closed; a client that
/// is not refused for a while begins anew.
const OVER_LIMIT: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(2);

/// Live events wait so long for a client's first command. If that is a `sync`, what it missed comes
/// before them; else nothing is lost but this time, once.
const FIRST_WORD: Duration = Duration::from_millis(200);
const FIRST_WORD_STEP: Duration = Duration::from_millis(20);

/// Where nobody can say whether a client may stay, it is asked again after this time.
const CHECK_PAUSE: Duration = Duration::from_millis(500);

/// Messages that one connection may have waiting while others of its own are being stored.
const MAX_QUEUED: usize = 64;

/// Events written at once.
const BATCH: usize = 64;

/// What a connection waits for beside its client.
pub(super) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;
type Check = Pin<Box<dyn Future<Output = Result<Arc<Caller>, Denied>> + Send>>;

/// A command's `request_id` and its answer, if it has one.
pub(super) type Reply = (Option<String>, Result<Option<Bytes>, ApiError>);

/// What became of it.
pub(super) enum Done {
    /// A command was done.
    Answer(Option<String>, Result<Option<Bytes>, ApiError>),
    /// Messages were stored, or not.
    Answers(Vec<Reply>),
    /// A token was looked at.
    Refreshed(Option<String>, Result<Arc<Caller>, ApiError>),
    /// A sync has its answer.
    Fetched(Box<Syncing>, StoreResult<Answer>),
}

/// A sync under way, and who asked for it: nobody, if the session catches up by itself.
pub(super) struct Syncing {
    sync: Sync,
    asked: bool,
    request_id: Option<String>,
}

/// The connection is over.
enum Ended {
    /// By us.
    Closed(Close),
    /// The client went, or the network did.
    Gone,
}

impl From<SocketError> for Ended {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => Self::Closed(Close::TooBig),
            SocketError::Utf8(_) => Self::Closed(Close::NotText),
            SocketError::Protocol(error) => {
                use tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
                if error == ResetWithoutClosingHandshake { Self::Gone } else { Self::Closed(Close::Protocol) }
            }
            _ => Self::Gone,
        }
    }
}

/// One connection and all that belongs to it.
pub(super) struct Connection {
    pub(super) api: Arc<Api>,
    pub(super) caller: Arc<Caller>,
    pub(super) session: Session,
    pub(super) peer: IpAddr,
    socket: Socket,
    /// The command that is being done: one at a time, in the order they came.
    work: Option<Work>,
    /// Whether that stores messages: then further ones may be read meanwhile, to be stored together.
    sending: bool,
    queued: Vec<(Option<String>, NewMessage)>,
    /// Another command, read while messages were being stored: its turn is after them.
    deferred: Option<Utf8Bytes>,
    check: Option<Check>,
    /// When to look whether what let the client in still would.
    check_at: Option<Instant>,
    /// Rooms to catch up with, when no command is being done.
    behind: VecDeque<(chatapi_domain::RoomId, i64, i64)>,
    heard_at: Instant,
    ping_at: Instant,
    /// Until when live events wait for the client's first command.
    first_word_by: Option<Instant>,
    /// Since when commands are over the rate limit, and when the last one was.
    over_limit: Option<(Instant, Instant)>,
}

impl Connection {
    pub(super) fn new(api: Arc<Api>, caller: Arc<Caller>, session: Session, socket: Socket, peer: IpAddr) -> Self {
        let now = Instant::now();
        Self {
            api,
            caller,
            session,
            peer,
            socket,
            work: None,
            sending: false,
            queued: Vec::new(),
            deferred: None,
            check: None,
            check_at: None,
            behind: VecDeque::new(),
            heard_at: now,
            ping_at: now + HEARTBEAT,
            first_word_by: Some(now + FIRST_WORD),
            over_limit: None,
        }
    }

    pub(super) async fn run(mut self) {
        let Err(ended) = self.serve().await;
        if let Ended::Closed(close) = ended {
            if close == Close::Shutdown {
                self.say_goodbye().await;
            }
            tracing::debug!(code = close.code(), connection_id = %self.session.connection_id(), "Closing a connection");
            close.send(&mut self.socket).await;
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Ended> {
        self.send(frame::connected(self.session.connection_id(), self.session.user_id(), HEARTBEAT)).await?;
        let stop = self.api.stop.clone();
        // Both wait over many turns: begun anew each time, all connections would queue for one lock.
        let (mut stopping, mut timer) = (pin!(stop.cancelled()), pin!(sleep_until(self.deadline())));
        let mut batch: Vec<Arc<Outgoing>> = Vec::new();
        loop {
            self.begin_next().await?;
            let live = self.first_word_by.is_none();
            let deadline = self.deadline();
            if deadline < timer.deadline() || timer.is_elapsed() {
                timer.as_mut().reset(deadline);
            }
            // In no fixed order: neither a busy room nor a busy client keeps the other waiting.
            tokio::select! {
                () = &mut stopping => return Err(Ended::Closed(Close::Shutdown)),
                received = self.session.receive(&mut batch, BATCH, live) => {
                    received.map_err(|Stop::TooSlow| Ended::Closed(Close::TooSlow))?;
                    self.write(&mut batch).await?;
                    if batch.capacity() > BATCH / 4 {
                        batch = Vec::new();
                    }
                }
                done = until_done(&mut self.work) => {
                    (self.work, self.sending) = (None, false);
                    self.finish(done).await?;
                }
                checked = until_done(&mut self.check) => {
                    self.check = None;
                    self.checked(checked)?;
                }
                frame = self.socket.next(), if self.may_read() => self.hear(frame).await?,
                () = &mut timer => self.tick().await?,
            }
        }
    }

    fn may_read(&self) -> bool {
        self.work.is_none() || (self.sending && self.deferred.is_none() && self.queued.len() < MAX_QUEUED)
    }

    /// Begins what was waiting for its turn.
    async fn begin_next(&mut self) -> Result<(), Ended> {
        if self.work.is_none() && !self.queued.is_empty() {
            let queued = std::mem::take(&mut self.queued);
            (self.work, self.sending) = (Some(self.store(queued)), true);
        }
        if self.work.is_none()
            && let Some(text) = self.deferred.take()
            && let Some(answer) = self.hear_command(&text)?
        {
            self.send(answer).await?;
        }
        if self.work.is_none()
            && let Some((room, after_seq, after_change)) = self.behind.pop_front()
        {
            let (sync, fetch) = self.session.catch_up(room, after_seq, after_change);
            self.fetch(Syncing { sync, asked: false, request_id: None }, fetch);
        }
        if self.check.is_none() && self.check_at.is_some_and(|at| at <= Instant::now()) {
            self.check_at = None;
            let (verifier, caller) = (self.api.verifier.clone(), self.caller.clone());
            self.check = Some(Box::pin(async move { verifier.recheck(&caller, clock::now()).await }));
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let first_word = self.first_word_by.map(|by| by.min(now + FIRST_WORD_STEP));
        let ends = self.caller.credential.expires_at().map(|at| {
            let left = at.as_micros().saturating_sub(clock::now().wall.as_micros());
            now + Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(HEARTBEAT)
        });
        let check = self.check_at.filter(|_| self.check.is_none());
        [first_word, ends, check].into_iter().flatten().fold(self.ping_at, Instant::min)
    }

    async fn tick(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if self.first_word_by.is_some_and(|by| now >= by) || self.session.is_filling() {
            self.first_word_by = None;
        }
        if self.caller.credential.expires_at().is_some_and(|at| at <= clock::now().wall) {
            let over = Close::of(&Denied::Invalid("key expired"), &self.caller.credential);
            return Err(Ended::Closed(over.unwrap_or(Close::Token)));
        }
        if now >= self.ping_at {
            if now.duration_since(self.heard_at) >= SILENCE {
                return Err(Ended::Closed(Close::NoPong));
            }
            self.ping_at = now + HEARTBEAT;
            self.caller.meter().active(self.session.user_id());
            self.write_one(Message::Ping(Bytes::new())).await?;
        }
        Ok(())
    }

    /// Writes events, those that are to be written, and flushes once.
    async fn write(&mut self, batch: &mut Vec<Arc<Outgoing>>) -> Result<(), Ended> {
        let mut sent = 0;
        let writing = async {
            for outgoing in batch.drain(..) {
                match &*outgoing {
                    Outgoing::CatchUp { room_id, after_seq, after_change } => {
                        self.session.passes(&outgoing);
                        self.behind.push_back((*room_id, *after_seq, *after_change));
                    }
                    Outgoing::Entered(_) => _ = self.session.passes(&outgoing),
                    Outgoing::Recheck { since } => {
                        self.api.verifier.outdate(self.caller.tenant.tenant_id, clock::monotonic(*since));
                        self.check_at = Some(Instant::now());
                    }
                    Outgoing::Message { text, .. } | Outgoing::Change { text, .. } | Outgoing::Other(text) => {
                        if self.session.passes(&outgoing) {
                            self.socket.feed(text_frame(text.clone())).await?;
                            sent += 1;
                        }
                    }
                }
            }
            self.socket.flush().await
        };
        timeout(WRITE_PATIENCE, writing).await.map_err(|_| Ended::Closed(Close::TooSlow))??;
        self.delivered(sent);
        Ok(())
    }

    fn delivered(&self, events: u64) {
        self.api.metrics.events_sent.inc_by(events);
        self.caller.meter().delivered(events);
    }

    async fn send(&mut self, text: Bytes) -> Result<(), Ended> {
        self.write_one(text_frame(text)).await
    }

    async fn write_one(&mut self, message: Message) -> Result<(), Ended> {
        let sending = self.socket.send(message);
        timeout(WRITE_PATIENCE, sending).await.map_err(|_| Ended::Closed(Close::TooSlow))??;
        Ok(())
    }

    /// A frame has come, or the end.
    async fn hear(&mut self, frame: Option<Result<Message, SocketError>>) -> Result<(), Ended> {
        self.heard_at = Instant::now();
        match frame.ok_or(Ended::Gone)?? {
            Message::Text(text) if self.work.is_some() && !command::is_send(&text) => {
                self.deferred = Some(text);
                Ok(())
            }
            Message::Text(text) => {
                let answer = self.hear_command(text.as_str())?;
                // Only now: a sync that comes first holds its rooms before any live event passes.
                self.first_word_by = None;
                match answer {
                    Some(answer) => self.send(answer).await,
                    None => Ok(()),
                }
            }
            Message::Binary(_) => {
                let error = ApiError::new(crate::error::Kind::InvalidRequest, "Expected a text frame");
                self.send(command::error(None, &error)).await
            }
            // A pong is sent by the library, with what is written or read next.
            Message::Ping(_) => self.socket.flush().await.map_err(Ended::from),
            Message::Pong(_) | Message::Frame(_) => Ok(()),
            Message::Close(_) => {
                let _ = timeout(Duration::from_secs(1), self.socket.flush()).await;
                Err(Ended::Gone)
            }
        }
    }

    /// Begins a command; its answer, if it has one already.
    fn hear_command(&mut self, text: &str) -> Result<Option<Bytes>, Ended> {
        let request_id = command::request_id(text);
        let request_id = request_id.as_deref();
        self.caller.meter().active(self.session.user_id());
        let verdict = self.caller.charge(self.api.store.feed().nodes(), clock::now());
        if !verdict.allowed {
            let now = Instant::now();
            let going_on = self.over_limit.filter(|(_, last)| now.duration_since(*last) < CALM);
            let since = going_on.map_or(now, |(since, _)| since);
            self.over_limit = Some((since, now));
            if now.duration_since(since) >= OVER_LIMIT {
                return Err(Ended::Closed(Close::OverLimit));
            }
            let error = ApiError::rate_limited("The tenant is over its rate limit", verdict.retry_nanos);
            return Ok(Some(command::error(request_id, &error)));
        }
        match self.begin(text, request_id) {
            Ok(Then::Answer(answer)) => Ok(answer),
            Ok(Then::Send(new)) => {
                self.queued.push((request_id.map(str::to_owned), *new));
                Ok(None)
            }
            Ok(Then::Work(work)) => {
                self.work = Some(work);
                Ok(None)
            }
            Ok(Then::Sync(sync, Some(fetch))) => {
                let syncing = Syncing { sync, asked: true, request_id: request_id.map(str::to_owned) };
                self.fetch(syncing, Some(fetch));
                Ok(None)
            }
            Ok(Then::Sync(sync, None)) => Ok(Some(Session::done(&sync, request_id))),
            Err(error) => Ok(Some(failed(request_id, &error))),
        }
    }

    /// Reads what a sync wants to know.
    fn fetch(&mut self, syncing: Syncing, fetch: Option<Fetch>) {
        let Some(fetch) = fetch else { return };
        let (reading, syncing) = (self.session.fetch(fetch), Box::new(syncing));
        self.work = Some(Box::pin(async move {
            let answer = reading.await;
            Done::Fetched(syncing, answer)
        }));
    }

    async fn finish(&mut self, done: Done) -> Result<(), Ended> {
        let answer = match done {
            Done::Answers(answers) => return self.send_all(answers).await,
            Done::Answer(request_id, answer) => match answer {
                Ok(answer) => answer,
                Err(error) => Some(failed(request_id.as_deref(), &error)),
            },
            Done::Refreshed(request_id, Ok(caller)) => {
                self.caller = caller;
                let answer = command::refreshed(request_id.as_deref(), self.caller.credential.expires_at());
                answer.unwrap_or_else(|error| Some(failed(request_id.as_deref(), &error)))
            }
            Done::Refreshed(request_id, Err(error)) => Some(failed(request_id.as_deref(), &error)),
            Done::Fetched(syncing, Ok(answer)) => return self.go_on(*syncing, answer).await,
            Done::Fetched(syncing, Err(error)) => {
                let error = ApiError::from(error);
                if !syncing.asked {
                    // Without what is between, the room would have a gap: the client comes back.
                    tracing::warn!(error = error.cause(), "A connection could not catch up");
                    return Err(Ended::Closed(Close::TooSlow));
                }
                Some(failed(syncing.request_id.as_deref(), &error))
            }
        };
        match answer {
            Some(answer) => self.send(answer).await,
            None => Ok(()),
        }
    }

    /// Sends the answers to messages that were stored together.
    async fn send_all(&mut self, answers: Vec<Reply>) -> Result<(), Ended> {
        let writing = async {
            for (request_id, answer) in answers {
                let answer = answer.unwrap_or_else(|error| Some(failed(request_id.as_deref(), &error)));
                if let Some(answer) = answer {
                    self.socket.feed(text_frame(answer)).await?;
                }
            }
            self.socket.flush().await
        };
        timeout(WRITE_PATIENCE, writing).await.map_err(|_| Ended::Closed(Close::TooSlow))??;
        Ok(())
    }

    /// Sends what a sync has read, and reads on.
    async fn go_on(&mut self, mut syncing: Syncing, answer: Answer) -> Result<(), Ended> {
        let Step { events, next } = self.session.answered(&mut syncing.sync, answer);
        let sent = events.len() as u64;
        let last =
            (next.is_none() && syncing.asked).then(|| Session::done(&syncing.sync, syncing.request_id.as_deref()));
        let writing = async {
            for text in events.into_iter().chain(last) {
                self.socket.feed(text_frame(text)).await?;
            }
            self.socket.flush().await
        };
        timeout(WRITE_PATIENCE, writing).await.map_err(|_| Ended::Closed(Close::TooSlow))??;
        self.delivered(sent);
        self.fetch(syncing, next);
        Ok(())
    }

    fn checked(&mut self, checked: Result<Arc<Caller>, Denied>) -> Result<(), Ended> {
        match checked {
            Ok(caller) => self.caller = caller,
            Err(denied) => match Close::of(&denied, &self.caller.credential) {
                Some(close) => return Err(Ended::Closed(close)),
                // Nobody can say at the moment.
                None => self.check_at = Some(Instant::now() + CHECK_PAUSE),
            },
        }
        Ok(())
    }

    async fn say_goodbye(&mut self) {
        // What was begun is answered first.
        if let Some(work) = self.work.take()
            && let Ok(done) = timeout(Duration::from_secs(1), work).await
        {
            let _ = self.finish(done).await;
        }
        let goodbye = frame::goodbye(self.session.connection_id());
        let _ = timeout(Duration::from_secs(1), self.socket.send(text_frame(goodbye))).await;
    }
}

async fn until_done<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(work) => work.await,
        None => pending().await,
    }
}

fn failed(request_id: Option<&str>, error: &ApiError) -> Bytes {
    crate::dispatch::log_error(error);
    command::error(request_id, error)
}
