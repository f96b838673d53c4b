//! The outbox: what a tenant's endpoint is to be told, written in the transaction that makes it true.
//!
//! A [`TenantStore`](crate::TenantStore) writes what it was [told to](crate::TenantStore::announcing);
//! by itself nothing. What becomes of it is in [`deliveries`](crate::deliveries).

use chatapi_domain::{Role, RoomId, TenantId, Timestamp, UserId, WebhookEvent, WebhookEvents};

use crate::db::Tx;
use crate::feed::Feed;
use crate::{Result, TenantUser};

/// Users whom one event is about, at most.
pub(crate) const MAX_USERS: usize = 1000;

/// The columns of an event of a message, for the statements that store it.
macro_rules! outbox_of_messages {
    () => {
        "insert into outbox (tenant_id, event_id, event, room_id, message_id, at) "
    };
}
pub(crate) use outbox_of_messages;

/// A message's two events, as the bits that [`message_bits`] sets.
macro_rules! message_events {
    () => {
        "(values ('message.new', 1), ('message.sent', 2)) e (event, bit)"
    };
}
pub(crate) use message_events;

const PUT: &str = "
    insert into outbox (tenant_id, event_id, event, room_id, user_ids, role, at)
    values ($1, new_id(), $2, $3, $4, $5, $6)";

const PUT_PRESENCE: &str = "
    insert into outbox (tenant_id, event_id, event, user_ids, at)
    select t.tenant_id, new_id(), $3, array[i.user_id], now()
      from unnest($1::uuid[], $2::text[]) i (tenant_id, user_id)
      join tenants t on t.tenant_id = i.tenant_id
     where t.status = 'active' and t.config -> 'webhook_events' ? $3
       and t.config ? 'webhook_url' and not t.config ? 'webhook_disabled_at'";

/// Which of the two events that a message may have are wanted.
pub(crate) fn message_bits(events: WebhookEvents) -> i32 {
    i32::from(events.contains(WebhookEvent::MessageNew)) + 2 * i32::from(events.contains(WebhookEvent::MessageSent))
}

/// What of one tenant's doings goes into the outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outbox<'a> {
    pub(crate) feed: &'a Feed,
    pub(crate) tenant: TenantId,
    pub(crate) events: WebhookEvents,
}

impl Outbox<'_> {
    pub(crate) const fn wants(&self, event: WebhookEvent) -> bool {
        self.events.contains(event)
    }

    /// Puts an event of a room into the outbox, if it is wanted.
    pub(crate) async fn put_in(&self, tx: &Tx<'_>, event: WebhookEvent, room: RoomId, now: Timestamp) -> Result<()> {
        if self.wants(event) {
            let nobody: Option<&[UserId]> = None;
            let role: Option<&str> = None;
            tx.execute(PUT, &[&self.tenant, &event.as_str(), &room, &nobody, &role, &now]).await?;
        }
        Ok(())
    }

    /// The same, about users of the room.
    pub(crate) async fn put_users_in(
        &self,
        tx: &Tx<'_>,
        event: WebhookEvent,
        room: RoomId,
        users: &[UserId],
        role: Option<Role>,
        now: Timestamp,
    ) -> Result<()> {
        if self.wants(event) {
            let role = role.map(Role::as_str);
            for users in users.chunks(MAX_USERS) {
                tx.execute(PUT, &[&self.tenant, &event.as_str(), &room, &users, &role, &now]).await?;
            }
        }
        Ok(())
    }

    /// Says, after the commit, that an event is there, if it was wanted.
    pub(crate) fn filled(&self, event: WebhookEvent) {
        if self.wants(event) {
            self.feed.outbox_filled(self.tenant);
        }
    }
}

/// Puts in that these users came or went, for the tenants that want to know. Read from the tenants
/// themselves: presence is nobody's request.
pub(crate) async fn put_presence_in(tx: &Tx<'_>, users: &[TenantUser], event: WebhookEvent) -> Result<()> {
    let (tenants, ids): (Vec<TenantId>, Vec<&UserId>) = users.iter().map(|(tenant, id)| (*tenant, id)).unzip();
    tx.execute(PUT_PRESENCE, &[&tenants, &ids, &event.as_str()]).await.map(|_| ())
}
