//! What becomes of the outbox: each event is one call to the tenant's endpoint, or several where it
//! has more than 1000 recipients, until it is answered or given up. One of the few files that see
//! more than one tenant.
//!
//! Several nodes work at it. Whoever takes a delivery has it for the time of a lease; if nothing is
//! heard until then, it is due again. So each is made at least once, and seldom twice.

use std::time::Duration;

use chatapi_domain::{EventId, Message, Role, Room, RoomId, TenantId, Timestamp, UserId, WebhookEvent};
use tokio_postgres::Row;

use crate::Result;
use crate::db::Db;
use crate::row::{self, get, word};

/// Events taken out of the outbox in one statement, and members of their rooms, of whom each may be a
/// recipient; one event at least.
const TAKE: i64 = 20;
const TAKE_MEMBERS: i64 = 20_000;

/// How long whoever takes a delivery has it, in seconds: longer than one attempt may take.
const LEASE: f64 = 30.0;

/// Something that a tenant's endpoint is to be told, with what it is about as it is now.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its id, the same at every attempt.
    pub event_id: EventId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// What happened.
    pub event: WebhookEvent,
    /// When.
    pub at: Timestamp,
    /// In which room, if in one.
    pub room_id: Option<RoomId>,
    /// The room; absent if it is gone.
    pub room: Option<Room>,
    /// The message; absent if it is not about one, or that is erased.
    pub message: Option<Message>,
    /// Whom it is about; of a new message the recipients.
    pub user_ids: Vec<UserId>,
    /// The role they got.
    pub role: Option<Role>,
    /// Attempts that failed.
    pub attempts: u32,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the endpoint answered, if it did.
    pub status: Option<u16>,
    /// What was wrong, for whoever looks at the dead letter.
    pub error: String,
}

/// What is to be told to the endpoints of all tenants.
#[derive(Debug, Clone, Copy)]
pub struct Deliveries<'a> {
    pub(crate) db: &'a Db,
}

/// Tenants for whom something is due. Each is found by one step along the index, however much of it
/// is one tenant's.
const DUE: &str = "
    with recursive waiting as (
        (select tenant_id from outbox order by tenant_id limit 1)
        union all
        select (select o.tenant_id from outbox o where o.tenant_id > w.tenant_id order by o.tenant_id limit 1)
          from waiting w where w.tenant_id is not null),
    pending as (
        (select tenant_id from deliveries where failed_at is null order by tenant_id limit 1)
        union all
        select (select d.tenant_id from deliveries d where d.failed_at is null and d.tenant_id > p.tenant_id
                 order by d.tenant_id limit 1)
          from pending p where p.tenant_id is not null)
    select t.tenant_id from (
        select tenant_id from waiting
        union
        select tenant_id from pending p
         where (select d.due_at from deliveries d where d.tenant_id = p.tenant_id and d.failed_at is null
                 order by d.due_at limit 1) <= now()) due
      join tenants t on t.tenant_id = due.tenant_id and t.status = 'active'";

/// Takes events out of the outbox. A new message goes to those of its room who are offline now, and
/// to nobody if it is deleted by now. Who counts as online only because nobody knows yet whether he
/// comes back, or whose node was silent for two beats, is told: once too often is better than never.
const TAKE_OUT: &str = "
    with oldest as materialized (
        select event_id, event, room_id from outbox
         where tenant_id = $1 order by event_id limit $2 for update skip locked),
    weighed as (
        select o.event_id, sum(r.member_count) over (order by o.event_id) - r.member_count as before
          from oldest o left join rooms r on o.event = 'message.new' and r.tenant_id = $1 and r.room_id = o.room_id),
    taken as materialized (
        delete from outbox where tenant_id = $1 and event_id = any (array(
            select event_id from weighed where before is null or before < $4))
        returning *),
    offline as (
        select t.event_id, m.user_id, (row_number() over (partition by t.event_id order by m.user_id) - 1) / $3 as nth
          from taken t
          join messages s on s.tenant_id = $1 and s.message_id = t.message_id and s.deleted_at is null
          join room_members m on m.tenant_id = $1 and m.room_id = s.room_id and m.user_id <> s.sender_id
         where t.event = 'message.new'
           and not exists (
                select from presence p join nodes n on n.node_id = p.node_id
                 where p.tenant_id = $1 and p.user_id = m.user_id
                   and not p.leaving and n.seen_at > now() - interval '7 seconds')),
    calls as (
        select event_id, 0 as nth, user_ids from taken where event <> 'message.new'
        union all
        select event_id, nth, array_agg(user_id order by user_id) from offline group by event_id, nth),
    stored as (
        insert into deliveries (tenant_id, event_id, event, room_id, message_id, user_ids, role, at, due_at)
        select $1, case when c.nth = 0 then t.event_id else new_id() end, t.event, t.room_id, t.message_id,
               c.user_ids, t.role, t.at, now()
          from calls c join taken t using (event_id))
    select count(*) as taken from taken";

/// Those of the room that is gone, or whose beginning has gone, are found without it.
macro_rules! shown {
    ($source:literal) => {
        concat!(
            "select d.event_id, d.tenant_id, d.event, d.at, d.room_id as about_room, d.user_ids, d.role as member_role,
                    d.attempts, d.last_status, d.last_error, d.failed_at, ",
            crate::row::room_columns!(),
            ", ",
            crate::row::message_columns!(),
            " from ",
            $source,
            " d left join rooms r on r.tenant_id = d.tenant_id and r.room_id = d.room_id
               left join messages m on m.tenant_id = d.tenant_id and m.message_id = d.message_id
                                   and m.room_id = r.room_id and m.seq >= r.first_seq"
        )
    };
}
pub(crate) use shown;

const CLAIM: &str = concat!(
    "with due as materialized (
        select event_id from deliveries where tenant_id = $1 and failed_at is null and due_at <= now()
         order by due_at limit $2 for update skip locked),
    claimed as (
        update deliveries d set due_at = now() + make_interval(secs => $3) from due
         where d.tenant_id = $1 and d.event_id = due.event_id
        returning d.*) ",
    shown!("claimed"),
    " order by d.event_id"
);

const DELIVERED: &str = "delete from deliveries where tenant_id = $1 and event_id = $2";

const RETRY: &str = "
    update deliveries
       set attempts = attempts + 1, due_at = now() + make_interval(secs => $3), last_status = $4, last_error = $5
     where tenant_id = $1 and event_id = $2";

const GIVE_UP: &str = "
    update deliveries set attempts = attempts + $3, failed_at = now(), last_status = $4, last_error = $5
     where tenant_id = $1 and event_id = $2";

const FORGET_OLD: &str = "
    delete from deliveries where ctid = any (array(
        select ctid from deliveries where failed_at < now() - interval '7 days' limit 1000))";

impl Deliveries<'_> {
    /// Tenants for whom something is to be done now.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn due(&self) -> Result<Vec<TenantId>> {
        self.db.query(DUE, &[]).await?.iter().map(|row| get(row, "tenant_id")).collect()
    }

    /// Takes what is in the tenant's outbox, or some of it, and says whether there was any.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn take(&self, tenant: TenantId) -> Result<bool> {
        let max_users = i64::try_from(crate::outbox::MAX_USERS).unwrap_or(i64::MAX);
        let row = self.db.query_opt(TAKE_OUT, &[&tenant, &TAKE, &max_users, &TAKE_MEMBERS]).await?;
        Ok(row.as_ref().map_or(Ok(0), |row| get::<i64>(row, "taken"))? > 0)
    }

    /// Claims at most `limit` of what is due for the tenant, for as long as a lease.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn claim(&self, tenant: TenantId, limit: i64) -> Result<Vec<Delivery>> {
        self.db.query(CLAIM, &[&tenant, &limit, &LEASE]).await?.iter().map(delivery).collect()
    }

    /// It is done.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails; then it is made again when the lease is over.
    pub async fn delivered(&self, delivery: &Delivery) -> Result<()> {
        self.db.execute(DELIVERED, &[&delivery.tenant_id, &delivery.event_id]).await.map(|_| ())
    }

    /// An attempt failed, and the next is made after `pause`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails; then it is tried again when the lease is over.
    pub async fn retry(&self, delivery: &Delivery, pause: Duration, failure: &Failure) -> Result<()> {
        let status = status(failure);
        let params: &crate::db::Params<'_> =
            &[&delivery.tenant_id, &delivery.event_id, &pause.as_secs_f64(), &status, &failure.error];
        self.db.execute(RETRY, params).await.map(|_| ())
    }

    /// It is a dead letter from now on, after an attempt if one was made.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails; then it is tried again when the lease is over.
    pub async fn give_up(&self, delivery: &Delivery, attempted: bool, failure: &Failure) -> Result<()> {
        let status = status(failure);
        let params: &crate::db::Params<'_> =
            &[&delivery.tenant_id, &delivery.event_id, &i32::from(attempted), &status, &failure.error];
        self.db.execute(GIVE_UP, params).await.map(|_| ())
    }
}

fn status(failure: &Failure) -> Option<i16> {
    failure.status.and_then(|status| i16::try_from(status).ok())
}

/// Reads a row of [`shown`].
pub(crate) fn delivery(row: &Row) -> Result<Delivery> {
    let has_room = get::<Option<RoomId>>(row, "room_id")?.is_some();
    let attempts: i32 = get(row, "attempts")?;
    let role = get::<Option<&str>>(row, "member_role")?.is_some();
    Ok(Delivery {
        event_id: get(row, "event_id")?,
        tenant_id: get(row, "tenant_id")?,
        event: word(row, "event", WebhookEvent::from_word)?,
        at: get(row, "at")?,
        room_id: get(row, "about_room")?,
        room: has_room.then(|| row::room(row)).transpose()?,
        message: row::optional_message(row)?,
        user_ids: get::<Option<_>>(row, "user_ids")?.unwrap_or_default(),
        role: role.then(|| word(row, "member_role", Role::from_word)).transpose()?,
        attempts: u32::try_from(attempts).unwrap_or(0),
    })
}

/// Forgets dead letters a week after they became such.
pub(crate) async fn forget_old(db: &Db) -> Result<()> {
    while db.execute(FORGET_OLD, &[]).await? > 0 {}
    Ok(())
}
