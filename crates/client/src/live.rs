//! What a user holds of a connection that is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::command::{Command, Effect, request_id};
use crate::event::Typing;
use crate::session::Session;
use crate::tracker::Item;
use crate::wire::{Ack, Done, InRoom, Notified, Refresh, Refreshed, Send, Sent, frame};
use crate::{Acked, Backoff, Client, ConnectOptions, Error, Event, Message, NewMessage, Position, ReceiptKind, Result};

/// Commands that wait until the connection takes them.
const COMMANDS: usize = 64;

/// How often a message is sent that the server has no time for, at most.
const TRIES: u32 = 4;

/// A connection that is kept: events come out of it, commands go in. Dropping it ends it.
///
/// All its methods take `&self`, so that one task may read events while others send. Somebody has
/// to read: when the queue of events is full nothing is read from the server any more, answers to
/// commands included.
pub struct Live {
    events: tokio::sync::Mutex<mpsc::Receiver<Item>>,
    positions: Mutex<HashMap<String, Position>>,
    commands: mpsc::Sender<Command>,
    client: Client,
    next_id: AtomicU64,
    answer_within: Duration,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens a connection for the caller's user, and keeps it; to be called in a Tokio runtime.
    ///
    /// It returns at once. What happens, a server that cannot be reached included, is told by
    /// [`Live::next`].
    #[must_use]
    pub fn connect(&self, options: ConnectOptions) -> Live {
        let (events, received) = mpsc::channel(options.queue.max(1));
        let (commands, given) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        let answer_within = options.answer_within;
        let positions = Mutex::new(options.positions.clone());
        let session = Session::new(self.clone(), options, events, given, stop.clone());
        Live {
            events: tokio::sync::Mutex::new(received),
            positions,
            commands,
            client: self.clone(),
            next_id: AtomicU64::new(0),
            answer_within,
            stop,
            task: AbortOnDropHandle::new(TaskTracker::new().spawn(session.run())),
        }
    }
}

impl Live {
    /// The next event; an error is the last thing before the end. It may be dropped and called again.
    pub async fn next(&self) -> Option<Result<Event>> {
        let mut events = self.events.lock().await;
        loop {
            match events.recv().await? {
                Item::Event(event) => {
                    self.note(&event);
                    return Some(Ok(event));
                }
                Item::Position(room_id, position) => {
                    self.places().insert(room_id, position);
                }
                Item::Forgotten(room_id) => {
                    self.places().remove(&room_id);
                }
                Item::End(error) => return Some(Err(error)),
            }
        }
    }

    /// How far the events are that [`next`](Self::next) has returned: what is to be remembered to
    /// go on from there another time, by [`ConnectOptions::positions`].
    #[must_use]
    pub fn positions(&self) -> HashMap<String, Position> {
        self.places().clone()
    }

    /// Sends a message; when this returns it is durable. It gets a `client_message_id` if it has
    /// none: if the connection breaks before the answer it is sent again, and is there once.
    ///
    /// # Errors
    ///
    /// [`Error::Api`] if the server refuses, [`Error::Timeout`] if nothing is known in time,
    /// [`Error::Ended`] if there is no connection any more.
    pub async fn send(&self, room_id: &str, message: impl Into<NewMessage>) -> Result<Message> {
        let message = message.into().identified(&self.client);
        let mut backoff = Backoff::default();
        for _ in 1..TRIES {
            match self.send_once(room_id, &message).await {
                Err(error) => match error.worth_repeating(backoff.wait()) {
                    Some(wait) => sleep(wait).await,
                    None => return Err(error),
                },
                sent => return sent,
            }
        }
        self.send_once(room_id, &message).await
    }

    async fn send_once(&self, room_id: &str, message: &NewMessage) -> Result<Message> {
        let sent: Sent = self.say("send_message", &Send { room_id, message }, Effect::Send).await?;
        Ok(*sent.message)
    }

    /// Acknowledges a room's messages up to `seq`. Positions only grow.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn ack(&self, room_id: &str, seq: i64, kind: ReceiptKind) -> Result<Acked> {
        self.say("ack", &Ack { room_id, seq, kind }, Effect::None).await
    }

    /// Acknowledges a notification, which else comes again at the next connection.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn ack_notification(&self, notification_id: &str) -> Result<()> {
        let Done {} = self.say("ack", &Notified { notification_id }, Effect::None).await?;
        Ok(())
    }

    /// Tells the others of a room that the user types, or no longer.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`] if there is no connection at the moment; else as [`send`](Self::send).
    pub async fn typing(&self, room_id: &str, typing: Typing) -> Result<()> {
        let kind = match typing {
            Typing::Start => "typing.start",
            Typing::Stop => "typing.stop",
        };
        let Done {} = self.say(kind, &InRoom { room_id }, Effect::Fleeting).await?;
        Ok(())
    }

    /// Follows a channel without joining it, on later connections too. Its events begin where it
    /// is, if the caller gave no position.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn subscribe(&self, room_id: &str) -> Result<()> {
        let Done {} = self.say("subscribe", &InRoom { room_id }, Effect::Subscribe(room_id.to_owned())).await?;
        Ok(())
    }

    /// Follows a channel no longer.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn unsubscribe(&self, room_id: &str) -> Result<()> {
        let Done {} = self.say("unsubscribe", &InRoom { room_id }, Effect::Unsubscribe(room_id.to_owned())).await?;
        Ok(())
    }

    /// Goes on with a newer token of the same user, here and at later connections; returns when it
    /// expires, if it does.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); a token that is refused changes nothing.
    pub async fn refresh(&self, token: SecretString) -> Result<Option<String>> {
        let effect = Effect::Refresh(token.clone());
        let refreshed: Refreshed = self.say("refresh", &Refresh { token: token.expose_secret() }, effect).await?;
        Ok(refreshed.expires_at)
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.stop.cancel();
        // It ends in any case; how does not matter any more.
        let _ = self.task.await;
    }

    /// Says something and waits for the answer.
    async fn say<T: DeserializeOwned>(&self, kind: &str, fields: &impl Serialize, effect: Effect) -> Result<T> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let command = Command { id, text: frame(kind, &request_id(id), fields), effect, reply };
        let told = async {
            self.commands.send(command).await.map_err(|_| Error::Ended)?;
            answer.await.map_err(|_| Error::Ended)?
        };
        let text = timeout(self.answer_within, told).await.map_err(|_| Error::Timeout(self.answer_within))??;
        serde_json::from_str(&text).map_err(Error::Decode)
    }

    /// Moves a room's position past an event that is handed out.
    fn note(&self, event: &Event) {
        let (room_id, position) = match event {
            Event::Message(message) => (&message.room_id, Position::new(message.seq, 0)),
            Event::Edited(edited) => (&edited.message.room_id, Position::new(0, edited.change)),
            Event::Deleted { room_id, change, .. } => (room_id, Position::new(0, *change)),
            _ => return,
        };
        if let Some(place) = self.places().get_mut(room_id) {
            *place = place.max(position);
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<String, Position>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
