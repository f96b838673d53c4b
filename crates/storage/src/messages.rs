//! Messages of one tenant's rooms: history, edits, erasure, the changes feed. Sending is in
//! [`writer`](crate::writer).

use std::sync::Arc;

use chatapi_domain::access::Actor;
use chatapi_domain::{
    Change, Content, HistoryQuery, Json, Message, MessageId, NewMessage, Order, RoomId, TenantId, Timestamp, UserId,
    WebhookEvent,
};
use tokio_postgres::Row;

use crate::db::Db;
use crate::feed::Feed;
use crate::looks::Extent;
use crate::meter::Meter;
use crate::outbox::{Outbox, outbox_of_messages};
use crate::quota::{self, Reserved};
use crate::rooms::standing;
use crate::row::{self, get, message_columns, visible_room};
use crate::writer::{Appended, Writer};
use crate::{Error, Result};

/// Messages of one tenant's rooms.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a> {
    pub(crate) db: &'a Db,
    pub(crate) writer: &'a Writer,
    pub(crate) feed: &'a Feed,
    pub(crate) outbox: Outbox<'a>,
    pub(crate) tenant: TenantId,
    /// What counts what is sent, and the quota in force.
    pub(crate) metered: Option<(&'a Arc<Meter>, Option<u64>)>,
}

/// A page of a room's messages.
#[derive(Debug, Clone)]
pub struct History<M = Message> {
    /// The messages, in the order asked for.
    pub messages: Vec<M>,
    /// Whether there are more in that direction.
    pub has_more: bool,
}

/// A page of history in one trip: a row without a message if the room has none there, no row at
/// all if the actor may not see the room. What stands before the room's beginning is about to be
/// erased, and is gone already.
macro_rules! history {
    ($direction:literal) => {
        concat!(
            "select page.*, r.first_seq, r.last_seq, r.last_change
               from (select r.tenant_id, r.room_id, r.first_seq, r.last_seq, r.last_change from ",
            visible_room!(),
            ") r left join lateral (select ",
            message_columns!(),
            " from messages m
               where m.tenant_id = $1 and m.room_id = $2 and m.seq > greatest($4, r.first_seq - 1) and m.seq < $5
               order by m.seq ",
            $direction,
            " limit $6) page on true order by page.seq ",
            $direction
        )
    };
}

const OLDEST_FIRST: &str = history!("asc");
const NEWEST_FIRST: &str = history!("desc");

const CHANGES: &str = concat!(
    "select page.* from (select r.tenant_id, r.room_id, r.first_seq from ",
    visible_room!(),
    ") r left join lateral (select m.change, ",
    message_columns!(),
    " from messages m
       where m.tenant_id = $1 and m.room_id = $2 and m.change > $4 and m.seq >= r.first_seq
       order by m.change limit $5) page on true order by page.change"
);

/// A message and the actor's place in its room; without the message if the room has none of this
/// id, no row at all if the actor may not see the room.
const GET: &str = concat!(
    "select r.type, r.role, ",
    message_columns!(),
    " from (select r.tenant_id, r.room_id, r.first_seq, r.type, own.role from ",
    visible_room!(),
    ") r left join messages m
       on m.tenant_id = $1 and m.message_id = $4 and m.room_id = r.room_id and m.seq >= r.first_seq"
);

/// The room's row lock orders changes, so their numbers become visible in order. A message that
/// was deleted meanwhile is not changed, and costs no number.
macro_rules! change {
    ($set:literal, $columns:expr, $event:literal if $announced:literal) => {
        concat!(
            "with room as materialized (
                select last_change + 1 as change from rooms
                 where tenant_id = $1 and room_id = $2 for no key update),
            changed as (
                update messages m set ",
            $set,
            ", change = room.change from room
                 where m.tenant_id = $1 and m.message_id = $3 and m.room_id = $2 and m.deleted_at is null
             returning ",
            $columns,
            ", m.change),
            counted as (
                update rooms r set last_change = changed.change from changed
                 where r.tenant_id = $1 and r.room_id = $2),
            told as (",
            outbox_of_messages!(),
            "select $1, new_id(), '",
            $event,
            "', $2, $3, clock_timestamp() from changed where ",
            $announced,
            ") select * from changed"
        )
    };
}

const EDIT: &str = change!(
    "content = $4, meta = case when $5 then $6::text::json else m.meta end, edited_at = $7",
    message_columns!(),
    "message.edited" if "$8"
);

const ERASE: &str =
    change!("content = '', meta = null, deleted_at = $4", message_columns!(), "message.deleted" if "$5");

const ERASE_ANSWERS: &str = "update idempotency_keys set body = null where tenant_id = $1 and message_id = $2";

impl<'a> Messages<'a> {
    /// Counts what is sent, and sends no more in a month than `quota`.
    #[must_use]
    pub fn metered(mut self, meter: &'a Arc<Meter>, quota: Option<u64>) -> Self {
        self.metered = Some((meter, quota));
        self
    }

    /// Appends a message under the room's next seq, and moves the sender's own positions to it.
    ///
    /// The room's row lock orders writers, so numbers have no gaps and become visible in order.
    /// Concurrent messages share a commit. The same `client_message_id` of the same sender in the
    /// same room, or the same message id, makes no second message: the first is returned.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the sender may not see the room, [`Error::Forbidden`] if it is a
    /// channel that the sender has not joined; [`Error::Invalid`] if `reply_to` is no message of
    /// the room; [`Error::Unavailable`] if the queue is full, or the connection broke, and then
    /// the message may be there all the same; [`Error::QuotaExceeded`] if the quota is used up.
    pub async fn append(&self, new: NewMessage) -> Result<Appended> {
        let reserved = match self.reserve(new.message_id).await {
            Ok(reserved) => reserved,
            Err(refused) => return self.refuse(&new, refused).await,
        };
        let appended = self.writer.append(self.tenant, new, self.outbox.events).await;
        self.count(reserved, &appended);
        appended
    }

    /// Appends messages of one sender, which become durable in this order; as [`Messages::append`],
    /// each with a result of its own.
    pub async fn append_all(&self, news: Vec<NewMessage>) -> Vec<Result<Appended>> {
        let (mut reservations, mut allowed, mut results) = (Vec::new(), Vec::new(), Vec::new());
        for new in news {
            match self.reserve(new.message_id).await {
                Ok(reserved) => {
                    reservations.push(reserved);
                    allowed.push(new);
                    results.push(None);
                }
                Err(refused) => results.push(Some(self.refuse(&new, refused).await)),
            }
        }
        let appended = self.writer.append_all(self.tenant, allowed, self.outbox.events).await;
        let mut stored = appended.into_iter().zip(reservations).map(|(appended, reserved)| {
            self.count(reserved, &appended);
            appended
        });
        let missing = || Err(Error::unavailable("a message got no answer"));
        results.into_iter().map(|refused| refused.or_else(|| stored.next()).unwrap_or_else(missing)).collect()
    }

    async fn reserve(&self, id: MessageId) -> Result<Option<Reserved>> {
        let Some((meter, Some(quota))) = self.metered else { return Ok(None) };
        quota::reserve(self.db, meter, self.feed.nodes(), quota, id).await.map(Some)
    }

    /// A message the quota has no room for: it may break another rule, or have been sent before.
    async fn refuse(&self, new: &NewMessage, refused: Error) -> Result<Appended> {
        match self.writer.explain(self.tenant, new).await? {
            Some(message) => Ok(Appended { message, created: false }),
            None => Err(refused),
        }
    }

    fn count(&self, reserved: Option<Reserved>, appended: &Result<Appended>) {
        if let (Some((meter, _)), Ok(appended)) = (self.metered, appended)
            && appended.created
        {
            meter.stored(appended.message.content.len());
            if let Some(reserved) = reserved {
                reserved.stored();
            }
        }
    }

    /// A page of a room's history.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no room that the actor may see.
    pub async fn history(&self, room: RoomId, actor: &Actor, query: &HistoryQuery) -> Result<History> {
        Ok(self.history_at(room, actor, query).await?.0)
    }

    /// The same, with how far the room was at that moment.
    ///
    /// # Errors
    ///
    /// As [`Messages::history`].
    pub async fn history_at(&self, room: RoomId, actor: &Actor, query: &HistoryQuery) -> Result<(History, Extent)> {
        let sql = match query.order {
            Order::Ascending => OLDEST_FIRST,
            Order::Descending => NEWEST_FIRST,
        };
        let (after, before) = (query.after_seq.unwrap_or(0), query.before_seq.unwrap_or(i64::MAX));
        let limit = i64::from(query.limit);
        let rows = self.db.query(sql, &[&self.tenant, &room, &actor.user(), &after, &before, &(limit + 1)]).await?;
        let first = rows.first().ok_or(Error::NotFound("Room"))?;
        let extent = Extent {
            first_seq: get(first, "first_seq")?,
            last_seq: get(first, "last_seq")?,
            last_change: get(first, "last_change")?,
        };
        Ok((page(&rows, limit, row::message)?, extent))
    }

    /// Messages that were edited or deleted since change number `after`, in their present state,
    /// in the order of their latest change.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no room that the actor may see.
    pub async fn changes(&self, room: RoomId, actor: &Actor, after: i64, limit: i64) -> Result<History<Change>> {
        let rows = self.db.query(CHANGES, &[&self.tenant, &room, &actor.user(), &after, &(limit + 1)]).await?;
        page(&rows, limit, changed)
    }

    /// One message.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none of this id in a room that the actor may see.
    pub async fn get(&self, room: RoomId, actor: &Actor, message: MessageId) -> Result<Message> {
        Ok(self.find(room, actor, message).await?.1)
    }

    /// Replaces a message's content, and its meta if one is given (`Some(None)` clears it).
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it was deleted; [`Error::NotFound`] and [`Error::Forbidden`] as the
    /// room's rules say.
    pub async fn edit(
        &self,
        room: RoomId,
        editor: &UserId,
        message: MessageId,
        content: &Content,
        meta: Option<&Option<Json>>,
        now: Timestamp,
    ) -> Result<Message> {
        let actor = Actor::User(editor.clone());
        let (row, found) = self.find(room, &actor, message).await?;
        standing(&row, &actor)?.edit_message(found.sender_id == *editor)?;
        let new_meta = meta.and_then(Option::as_ref).map(Json::as_str);
        let edited = self
            .db
            .query_opt(
                EDIT,
                &[
                    &self.tenant,
                    &room,
                    &message,
                    &content.as_str(),
                    &meta.is_some(),
                    &new_meta,
                    &now,
                    &self.outbox.wants(WebhookEvent::MessageEdited),
                ],
            )
            .await?;
        let edited = edited.as_ref().map(changed).transpose()?;
        let edited = edited.ok_or(Error::Conflict("A deleted message cannot be edited"))?;
        self.feed.changed(self.tenant, &edited);
        self.outbox.filled(WebhookEvent::MessageEdited);
        Ok(edited.message)
    }

    /// Erases a message's content and meta, from stored answers too; its place in the room stays.
    /// Again it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] and [`Error::Forbidden`] as the room's rules say.
    pub async fn erase(&self, room: RoomId, eraser: &UserId, message: MessageId, now: Timestamp) -> Result<()> {
        let actor = Actor::User(eraser.clone());
        let (row, found) = self.find(room, &actor, message).await?;
        standing(&row, &actor)?.erase_message(found.sender_id == *eraser)?;
        if found.deleted_at.is_some() {
            return Ok(());
        }
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let announced = self.outbox.wants(WebhookEvent::MessageDeleted);
        let gone = tx.query_opt(ERASE, &[&self.tenant, &room, &message, &now, &announced]).await?;
        // A statement of its own: it must see an answer that was stored while the first waited.
        tx.execute(ERASE_ANSWERS, &[&self.tenant, &message]).await?;
        tx.commit().await?;
        if let Some(row) = &gone {
            self.feed.changed(self.tenant, &changed(row)?);
            self.outbox.filled(WebhookEvent::MessageDeleted);
        }
        Ok(())
    }

    async fn find(&self, room: RoomId, actor: &Actor, message: MessageId) -> Result<(Row, Message)> {
        let row = self.db.query_opt(GET, &[&self.tenant, &room, &actor.user(), &message]).await?;
        let row = row.ok_or(Error::NotFound("Room"))?;
        let found = row::optional_message(&row)?.ok_or(Error::NotFound("Message"))?;
        Ok((row, found))
    }
}

fn changed(row: &Row) -> Result<Change> {
    Ok(Change { change: get(row, "change")?, message: row::message(row)? })
}

/// A page of at most `limit` out of the rows of an outer join that asked for one more.
fn page<M>(rows: &[Row], limit: i64, read: impl Fn(&Row) -> Result<M>) -> Result<History<M>> {
    let first = rows.first().ok_or(Error::NotFound("Room"))?;
    if get::<Option<i64>>(first, "seq")?.is_none() {
        return Ok(History { messages: Vec::new(), has_more: false });
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let messages = rows.iter().take(limit).map(read).collect::<Result<_>>()?;
    Ok(History { messages, has_more: rows.len() > limit })
}
