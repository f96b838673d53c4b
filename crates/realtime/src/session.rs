//! One connection, as the hub sees it.

use std::sync::Arc;

use bytes::Bytes;
use chatapi_domain::{ConnectionId, RoomId, UserId};
use chatapi_storage::{Error, Result as StoreResult};
use tokio::sync::mpsc;

use crate::cursor::Cursors;
use crate::event::Outgoing;
use crate::hub::Hub;
use crate::mailbox::{Mailbox, Stop};
use crate::sync::{Answer, Fetch, Since, Step, Sync, Wanted};

/// One connection of a user. Dropped, it is unregistered.
#[derive(Debug)]
pub struct Session {
    pub(crate) hub: Hub,
    pub(crate) mailbox: Arc<Mailbox>,
    queue: mpsc::Receiver<Arc<Outgoing>>,
    cursors: Cursors,
}

impl Session {
    pub(crate) fn new(hub: Hub, mailbox: Arc<Mailbox>, queue: mpsc::Receiver<Arc<Outgoing>>) -> Self {
        Self { hub, mailbox, queue, cursors: Cursors::default() }
    }

    /// Its id.
    #[must_use]
    pub fn connection_id(&self) -> ConnectionId {
        self.mailbox.connection_id
    }

    /// Its user.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.mailbox.user_id
    }

    /// Waits for events and takes up to `limit` out of the queue; if `live` is false, it takes none.
    ///
    /// # Errors
    ///
    /// [`Stop`] when the hub ends the session.
    pub async fn receive(&mut self, into: &mut Vec<Arc<Outgoing>>, limit: usize, live: bool) -> Result<(), Stop> {
        tokio::select! {
            biased;
            stop = self.mailbox.stopped() => Err(stop),
            _ = self.queue.recv_many(into, limit), if live => Ok(()),
        }
    }

    /// Whether half of the queue or more is taken.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.queue.len() > crate::mailbox::QUEUE / 2
    }

    /// Whether an event is to be sent to this connection: not if it was sent before, nor while its
    /// room is being synced.
    pub fn passes(&mut self, outgoing: &Outgoing) -> bool {
        self.cursors.pass(outgoing)
    }

    /// Begins a sync; if there is anything to be known first, it says what.
    pub fn sync(&mut self, wanted: Wanted) -> (Sync, Option<Fetch>) {
        let entered = self.mailbox.entered();
        let members = entered.rooms.iter().filter(|(_, place)| place.member).map(|(room, _)| *room).collect();
        drop(entered);
        Sync::begin(wanted, members, &mut self.cursors)
    }

    /// Gives a sync what it wanted to know.
    pub fn answered(&mut self, sync: &mut Sync, answer: Answer) -> Step {
        sync.answered(answer, &mut self.cursors)
    }

    /// The event that ends a sync.
    #[must_use]
    pub fn done(sync: &Sync, request_id: Option<&str>) -> Bytes {
        sync.done(request_id)
    }

    /// Begins to read what is between where the user came to a room and where the room's tail
    /// was already.
    pub fn catch_up(&mut self, room: RoomId, after_seq: i64, after_change: i64) -> (Sync, Option<Fetch>) {
        let since = Since { after_seq, after_change: Some(after_change) };
        self.sync(Wanted::Named(vec![(room.to_string(), Some(room), since)]))
    }

    /// Reads what a sync wants to know. Owns what it needs, so that the session can go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails, or the user may not see the room any more.
    pub fn fetch(&self, fetch: Fetch) -> impl Future<Output = StoreResult<Answer>> + Send + use<> {
        let (hub, tenant, user) = (self.hub.clone(), self.mailbox.tenant_id, self.mailbox.user_id.clone());
        async move { hub.read(tenant, &user, fetch).await }
    }

    /// Follows a channel without joining it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the user may not see the room; [`Error::Unavailable`] if it cannot
    /// be looked up.
    pub fn subscribe(&self, room: RoomId) -> impl Future<Output = StoreResult<()>> + Send + use<> {
        let (hub, mailbox) = (self.hub.clone(), self.mailbox.clone());
        async move {
            let places = hub.store().tenant(mailbox.tenant_id).rooms().places_in(&[room], &mailbox.user_id).await?;
            let place = places.first().ok_or(Error::NotFound("Room"))?;
            hub.enter(&mailbox, place, place.role.is_some(), None);
            Ok(())
        }
    }

    /// Follows a channel no more that the user has not joined; a member's rooms are followed always.
    pub fn unsubscribe(&mut self, room: RoomId) {
        let subscribed = self.mailbox.entered().rooms.get(&room).is_some_and(|place| !place.member);
        if subscribed {
            self.hub.leave(&self.mailbox, room);
        }
    }

    /// Tells the room that the user begins or stops typing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the user is no member, or there is no such room.
    pub fn typing(&self, room: RoomId, started: bool) -> StoreResult<()> {
        let member = self.mailbox.entered().rooms.get(&room).is_some_and(|place| place.member);
        if !member {
            return Err(Error::NotFound("Room"));
        }
        self.hub.typing(self.mailbox.tenant_id, room, &self.mailbox.user_id, started);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.unregister(&self.mailbox);
    }
}
