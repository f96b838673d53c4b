//! The task behind a [`Live`](crate::Live): one connection after the other, until one ends it for good.

use std::collections::BTreeMap;
use std::mem;
use std::pin::pin;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::client::Credentials;
use crate::command::{Command, Effect, Pending};
use crate::connection::Connection;
use crate::error::{LONGEST_WAIT, in_words};
use crate::socket::{End, Socket};
use crate::tracker::{Item, Tracker};
use crate::{Backoff, Client, ConnectOptions, Error, Event, Result};

/// After commands came too fast, at least this long.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// What outlives a connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) options: ConnectOptions,
    pub(crate) events: mpsc::Sender<Item>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: Tracker,
    pub(crate) pending: Pending,
    /// Channels that are followed, and whether that is the only reason to follow them.
    pub(crate) subscribed: BTreeMap<String, bool>,
    /// Whether the first [`Event::Connected`] was told.
    pub(crate) announced: bool,
    /// When the server, about to stop, asked to come back.
    pub(crate) reconnect_after: Option<Duration>,
    /// The token before the one that is being tried.
    previous: Option<Client>,
    /// Whether the token is newer than the connection that it was refused on.
    refreshed: bool,
    /// Whether the token came from the source, and has not been seen to work.
    renewed: bool,
    backoff: Backoff,
}

/// How it goes on.
struct Retry {
    code: Option<u16>,
    reason: String,
    wait: Duration,
}

impl Session {
    pub(crate) fn new(
        client: Client,
        mut options: ConnectOptions,
        events: mpsc::Sender<Item>,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            client,
            events,
            commands,
            stop,
            tracker: Tracker::new(mem::take(&mut options.positions)),
            pending: Pending::default(),
            subscribed: BTreeMap::new(),
            announced: false,
            reconnect_after: None,
            previous: None,
            refreshed: false,
            renewed: false,
            backoff: options.backoff,
            options,
        }
    }

    /// Keeps a connection until the user stops it or the server ends it for good.
    pub(crate) async fn run(mut self) {
        loop {
            let end = match self.while_offline(Socket::open(self.client.clone())).await {
                None => return,
                Some(Err(end)) => end,
                Some(Ok(socket)) => self.converse(socket).await,
            };
            if matches!(end, End::Stopped) {
                return;
            }
            let wait = match self.judge(end).await {
                Ok(Retry { code, reason, wait }) => {
                    let event = Event::Disconnected { code, reason, retry_in: wait };
                    if self.emit(Item::Event(event)).await.is_err() {
                        return;
                    }
                    wait
                }
                Err(error) => {
                    // If nobody listens, nobody has to know.
                    let _ = self.emit(Item::End(error)).await;
                    return;
                }
            };
            if self.while_offline(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    async fn converse(&mut self, socket: Socket) -> End {
        let began = Instant::now();
        self.refreshed = false;
        let end = Connection::new(self, socket).run().await;
        self.pending.interrupted();
        if began.elapsed() >= self.backoff.stable() {
            self.backoff.reset();
        }
        end
    }

    /// Hands something to the user; waits while the user is slow.
    pub(crate) async fn emit(&self, item: Item) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Stopped),
            sent = self.events.send(item) => sent.map_err(|_| End::Stopped),
        }
    }

    /// Waits for `work` while commands are taken; nothing if the user stops it.
    async fn while_offline<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                done = &mut work => return Some(done),
                Some(command) = self.commands.recv(), if self.pending.has_room() => {
                    self.accept(command);
                    self.pending.interrupted();
                }
            }
        }
    }

    /// Takes a command of the user.
    pub(crate) fn accept(&mut self, command: Command) {
        if let Effect::Refresh(token) = &command.effect {
            self.use_token(token.clone());
        }
        self.pending.insert(command);
    }

    /// Uses this token from now on.
    fn use_token(&mut self, token: SecretString) {
        // A token that cannot be sent is refused by the server; the old one stays.
        if let Ok(client) = self.client.with_credentials(Credentials::UserToken(token)) {
            self.previous = Some(mem::replace(&mut self.client, client));
            self.refreshed = true;
        }
    }

    /// The server did not like the token: back to the one before.
    pub(crate) fn reject_token(&mut self) {
        if let Some(client) = self.previous.take() {
            self.client = client;
            self.refreshed = false;
        }
    }

    /// The server has accepted the credentials.
    pub(crate) fn accepted(&mut self) {
        self.renewed = false;
    }

    /// Whether the end of a connection is the end.
    async fn judge(&mut self, end: End) -> Result<Retry> {
        let wait = self.backoff.wait();
        // What the server asked for is for the first attempt; it may be away longer.
        let asked = self.reconnect_after.take();
        match end {
            End::Stopped => Err(Error::Ended),
            End::Lost(error) => Ok(Retry { code: None, reason: in_words(&error), wait: asked.unwrap_or(wait) }),
            End::Refused(error) => {
                let reason = in_words(&error);
                let wait = match error.status() {
                    Some(401) => {
                        self.renew(error).await?;
                        wait
                    }
                    Some(429 | 500..) | None => error.retry_after().unwrap_or(wait).min(LONGEST_WAIT),
                    Some(_) => return Err(error),
                };
                Ok(Retry { code: None, reason, wait })
            }
            End::Closed { code, reason } => {
                let wait = match code {
                    1008 | 1009 | 4501 | 4505 | 4506 => return Err(Error::Closed { code, reason }),
                    4003 => {
                        self.renew(Error::Closed { code, reason: reason.clone() }).await?;
                        wait
                    }
                    4008 => wait.max(COOL_DOWN),
                    _ => asked.unwrap_or(wait),
                };
                Ok(Retry { code: Some(code), reason, wait })
            }
        }
    }

    /// Gets another token than the one that was refused with `error`.
    async fn renew(&mut self, error: Error) -> Result<()> {
        if mem::take(&mut self.refreshed) {
            return Ok(());
        }
        match self.options.token_source.clone() {
            Some(source) if !self.renewed && self.client.is_of_token() => {
                let token = self.while_offline(source.fetch()).await.ok_or(Error::Ended)?.map_err(Error::Token)?;
                self.client = self.client.with_credentials(Credentials::UserToken(token))?;
                self.renewed = true;
                Ok(())
            }
            _ => Err(error),
        }
    }
}
