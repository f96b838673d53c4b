//! Who is told of what happens beside messages.
//!
//! Facts that change who follows a room are worked on one after the other, in the order of their
//! commits; what needs no look into the database is told at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chatapi_domain::access::Actor;
use chatapi_domain::{ConnectionId, Fact, Place, Role, Room, RoomId, TenantId, UserId};
use chatapi_storage::{Error, Result};
use tokio::sync::mpsc;

use crate::event::{self, Outgoing};
use crate::hub::Hub;
use crate::mailbox::Mailbox;

/// Members up to which a room is told who of it comes and goes.
const PRESENCE_UP_TO: i32 = 500;

/// How often a look into the database is tried.
const TRIES: u32 = 3;

/// What must be done in its turn: it changes who follows a room.
#[derive(Debug)]
pub(crate) enum Duty {
    /// A fact is to be told.
    Tell(TenantId, Fact),
    /// Sessions are to be put into the rooms they belong in.
    EnterAgain(Vec<Arc<Mailbox>>),
    /// Rooms that changed, or went, are to be told of.
    LookAgain,
}

impl Hub {
    /// Tells what can be told at once; false if the fact is to be worked on in its turn.
    pub(crate) fn told_at_once(&self, tenant: TenantId, fact: &Fact) -> bool {
        match fact {
            Fact::Receipt { room_id, user_id, seq, kind } => {
                self.tell_room(tenant, *room_id, || event::ack(*room_id, user_id, *seq, *kind), None);
            }
            Fact::Typing { room_id, user_id, started } => {
                self.tell_room(tenant, *room_id, || event::typing(*room_id, user_id, *started), Some(user_id));
            }
            Fact::TenantChanged => self.recheck(tenant, None),
            Fact::TokensRevoked { user_id } => self.recheck(tenant, user_id.as_ref()),
            Fact::RoomCreated { .. }
            | Fact::RoomUpdated { .. }
            | Fact::RoomDeleted { .. }
            | Fact::MembersAdded { .. }
            | Fact::MemberRemoved { .. }
            | Fact::Presence { .. } => return false,
        }
        true
    }

    /// Tells everybody here who follows the room, but `except`.
    fn tell_room(&self, tenant: TenantId, room: RoomId, text: impl FnOnce() -> bytes::Bytes, except: Option<&UserId>) {
        let Some(tail) = self.tail(tenant, room) else { return };
        let outgoing = Arc::new(Outgoing::Other(text()));
        let state = tail.lock();
        for listener in state.listeners.values() {
            if Some(&listener.user_id) != except {
                listener.offer(&outgoing);
            }
        }
    }

    fn recheck(&self, tenant: TenantId, user: Option<&UserId>) {
        let recheck = Arc::new(Outgoing::Recheck { since: Instant::now() });
        let tenants = self.users();
        let Some(of_tenant) = tenants.get(&tenant) else { return };
        let concerned = of_tenant.users.iter().filter(|(id, _)| user.is_none_or(|user| user == *id));
        concerned.flat_map(|(_, mailboxes)| mailboxes).for_each(|mailbox| _ = mailbox.offer(&recheck));
    }

    fn mailboxes_of(&self, tenant: TenantId, users: &[UserId]) -> Vec<Arc<Mailbox>> {
        let tenants = self.users();
        let Some(of_tenant) = tenants.get(&tenant) else { return Vec::new() };
        users.iter().filter_map(|user| of_tenant.users.get(user)).flatten().cloned().collect()
    }
}

/// Does duties as they come, for ever.
pub(crate) async fn work(hub: Hub, mut duties: mpsc::Receiver<Duty>) {
    while let Some(duty) = duties.recv().await {
        let mut tries = 0;
        while let Err(error) = work_on(&hub, &duty).await {
            tries += 1;
            tracing::debug!(%error, tries, "A duty could not be done");
            if tries == TRIES {
                // Whoever follows too much or too little is put right when the database is back:
                // its connection is cut, and after that everything is read again.
                break;
            }
        }
    }
}

async fn work_on(hub: &Hub, duty: &Duty) -> Result<()> {
    match duty {
        Duty::Tell(tenant, fact) => tell(hub, *tenant, fact).await,
        Duty::EnterAgain(mailboxes) => enter_again(hub, mailboxes).await,
        Duty::LookAgain => look_again(hub).await,
    }
}

async fn tell(hub: &Hub, tenant: TenantId, fact: &Fact) -> Result<()> {
    match fact {
        Fact::RoomCreated { room_id, user_ids } => created(hub, tenant, *room_id, user_ids).await,
        Fact::RoomUpdated { room_id } => updated(hub, tenant, *room_id).await,
        Fact::RoomDeleted { room_id } => {
            deleted(hub, tenant, *room_id);
            Ok(())
        }
        Fact::MembersAdded { room_id, user_ids, role, last_seq, last_change } => {
            let from = (*last_seq, *last_change);
            added(hub, tenant, *room_id, user_ids, *role, from).await
        }
        Fact::MemberRemoved { room_id, user_id } => {
            removed(hub, tenant, *room_id, user_id);
            Ok(())
        }
        Fact::Presence { user_ids, online } => presence(hub, tenant, user_ids, *online).await,
        Fact::Receipt { .. } | Fact::Typing { .. } | Fact::TenantChanged | Fact::TokensRevoked { .. } => Ok(()),
    }
}

/// The room as it is now; nothing if it is gone.
async fn room(hub: &Hub, tenant: TenantId, room: RoomId) -> Result<Option<Room>> {
    match hub.store().tenant(tenant).rooms().get(room, &Actor::Tenant).await {
        Ok(room) => Ok(Some(room)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where somebody begins who comes to a room at `from`.
fn place(room: &Room, from: (i64, i64)) -> Place {
    Place {
        room_id: room.room_id,
        room_type: room.room_type,
        last_seq: from.0,
        last_change: from.1,
        updated_at: room.updated_at,
        role: None,
        delivered_seq: from.0,
    }
}

async fn created(hub: &Hub, tenant: TenantId, room_id: RoomId, users: &[UserId]) -> Result<()> {
    let mailboxes = hub.mailboxes_of(tenant, users);
    if mailboxes.is_empty() {
        return Ok(());
    }
    let Some(room) = room(hub, tenant, room_id).await? else { return Ok(()) };
    let outgoing = Arc::new(Outgoing::Other(event::room("room.created", &room)));
    for mailbox in mailboxes {
        mailbox.offer(&outgoing);
        hub.enter(&mailbox, &place(&room, (0, 0)), true, Some((0, 0)));
    }
    Ok(())
}

async fn updated(hub: &Hub, tenant: TenantId, room_id: RoomId) -> Result<()> {
    let Some(tail) = hub.tail(tenant, room_id) else { return Ok(()) };
    let Some(room) = room(hub, tenant, room_id).await? else { return Ok(()) };
    let mut state = tail.lock();
    state.updated_at = state.updated_at.max(room.updated_at);
    state.offer(&Arc::new(Outgoing::Other(event::room("room.updated", &room))));
    Ok(())
}

fn deleted(hub: &Hub, tenant: TenantId, room_id: RoomId) {
    let outgoing = Arc::new(Outgoing::Other(event::room_deleted(room_id)));
    for mailbox in hub.close_tail(&(tenant, room_id)) {
        mailbox.offer(&outgoing);
        hub.leave(&mailbox, room_id);
    }
}

async fn added(
    hub: &Hub,
    tenant: TenantId,
    room_id: RoomId,
    users: &[UserId],
    role: Role,
    from: (i64, i64),
) -> Result<()> {
    let mailboxes = hub.mailboxes_of(tenant, users);
    let tail = hub.tail(tenant, room_id);
    if mailboxes.is_empty() && tail.is_none() {
        return Ok(());
    }
    let Some(room) = room(hub, tenant, room_id).await? else { return Ok(()) };
    let outgoing = Arc::new(Outgoing::Other(event::members_added(&room, users, role)));
    let mut told: HashSet<ConnectionId> = HashSet::new();
    if let Some(tail) = tail {
        let state = tail.lock();
        for (id, listener) in &state.listeners {
            told.insert(*id);
            listener.offer(&outgoing);
        }
    }
    for mailbox in mailboxes {
        if !told.contains(&mailbox.connection_id) {
            mailbox.offer(&outgoing);
        }
        hub.enter(&mailbox, &place(&room, from), true, Some(from));
    }
    Ok(())
}

fn removed(hub: &Hub, tenant: TenantId, room_id: RoomId, user: &UserId) {
    let outgoing = Arc::new(Outgoing::Other(event::member_removed(room_id, user)));
    for mailbox in hub.mailboxes(tenant, user) {
        hub.leave(&mailbox, room_id);
        mailbox.offer(&outgoing);
    }
    if let Some(tail) = hub.tail(tenant, room_id) {
        tail.lock().offer(&outgoing);
    }
}

/// Tells those who share a room with the users, once each, but not the users themselves.
async fn presence(hub: &Hub, tenant: TenantId, users: &[UserId], online: bool) -> Result<()> {
    let rooms = hub.store().tenant(tenant).presence().rooms_of(users, PRESENCE_UP_TO).await?;
    let mut by_user: HashMap<UserId, Vec<RoomId>> = HashMap::new();
    for (user, room) in rooms {
        by_user.entry(user).or_default().push(room);
    }
    for (user, rooms) in by_user {
        let mut told: HashMap<ConnectionId, Arc<Mailbox>> = HashMap::new();
        for tail in rooms.into_iter().filter_map(|room| hub.tail(tenant, room)) {
            let state = tail.lock();
            let others = state.listeners.iter().filter(|(_, listener)| listener.user_id != user);
            told.extend(others.map(|(id, listener)| (*id, listener.clone())));
        }
        let outgoing = Arc::new(Outgoing::Other(event::presence(&user, online)));
        for mailbox in told.values() {
            mailbox.offer(&outgoing);
        }
    }
    Ok(())
}

/// Puts sessions into the rooms they belong in, and out of those they do not, after facts were
/// lost, or where somebody was taken out of a room at once and may be back.
async fn enter_again(hub: &Hub, mailboxes: &[Arc<Mailbox>]) -> Result<()> {
    for mailbox in mailboxes {
        let known: HashSet<RoomId> = {
            let entered = mailbox.entered();
            if entered.removed.is_some() || entered.closed {
                // It reads its rooms itself at this moment, or needs none any more.
                continue;
            }
            entered.rooms.iter().filter(|(_, place)| place.member).map(|(room, _)| *room).collect()
        };
        let places = hub.store().tenant(mailbox.tenant_id).rooms().places(&mailbox.user_id).await?;
        let now: HashSet<RoomId> = places.iter().map(|place| place.room_id).collect();
        for room in known.difference(&now) {
            hub.leave(mailbox, *room);
            mailbox.offer(&Arc::new(Outgoing::Other(event::member_removed(*room, &mailbox.user_id))));
        }
        for place in places.iter().filter(|place| !known.contains(&place.room_id)) {
            // From where messages have reached the user: that is where a new member begins.
            hub.enter(mailbox, place, true, Some((place.delivered_seq, place.last_change)));
            if let (Ok(Some(room)), Some(role)) = (room(hub, mailbox.tenant_id, place.room_id).await, place.role) {
                let users = std::slice::from_ref(&mailbox.user_id);
                mailbox.offer(&Arc::new(Outgoing::Other(event::members_added(&room, users, role))));
            }
        }
    }
    Ok(())
}

/// Tells of rooms that changed, or went, after facts were lost.
async fn look_again(hub: &Hub) -> Result<()> {
    for rooms in hub.all_tails().chunks(1000) {
        let mut gone: HashSet<_> = rooms.iter().copied().collect();
        for (position, updated_at) in hub.store().feed().positions(rooms).await? {
            let key = (position.tenant_id, position.room_id);
            gone.remove(&key);
            if hub.tail(key.0, key.1).is_some_and(|tail| tail.lock().updated_at < updated_at) {
                updated(hub, key.0, key.1).await?;
            }
        }
        for (tenant, room) in gone {
            deleted(hub, tenant, room);
        }
    }
    Ok(())
}
