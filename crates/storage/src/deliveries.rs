//! What becomes of the outbox: each event is one call to the tenant's endpoint, or several where it
//! has more than 1000 recipients, until it is answered or given up. One of the few files that see
//! more than one tenant.
//!
//! Several nodes work at it. Whoever takes a delivery has it for the time of a lease; if nothing is
//! heard until then, it is due again. So each is made at least once, and seldom twice.

use std::time::{Duration, Instant};

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

/// What was taken out of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Whether anything was.
    pub any: bool,
    /// Whether there is something that waits for its time, less than half a second.
    pub young: bool,
}

/// What was claimed.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The deliveries, each with when it was due.
    pub deliveries: Vec<(Delivery, Timestamp)>,
    /// Whether there may be more that is due.
    pub more: bool,
}

/// How far a tenant's outbox and deliveries were worked through lately: what is looked for begins a
/// little before that. Rows that are gone stay in the index as long as any snapshot may see them, and
/// without a floor each look would walk over them: with the dead rows of ten minutes, and an export
/// that runs, it took 128 ms. Of use for a minute; then everything is looked through once.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    taken: Timestamp,
    claimed: Timestamp,
    since: Instant,
}

impl Floor {
    /// Longer than a transaction may last, in seconds: what it brought is older than its commit.
    const MARGIN: i64 = 60;

    const USE: Duration = Duration::from_mins(1);

    /// The bottom.
    #[must_use]
    pub fn new() -> Self {
        // The first moment that PostgreSQL and the ids know.
        Self { taken: Timestamp::from_micros(0), claimed: Timestamp::from_micros(0), since: Instant::now() }
    }

    fn event(&mut self) -> EventId {
        if self.since.elapsed() > Self::USE {
            *self = Self::new();
        }
        EventId::first_at(self.taken.plus_seconds(-Self::MARGIN))
    }

    fn due(&self) -> Timestamp {
        self.claimed.plus_seconds(-Self::MARGIN)
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to be told to the endpoints of all tenants.
#[derive(Debug, Clone, Copy)]
pub struct Deliveries<'a> {
    pub(crate) db: &'a Db,
}

/// Tenants for whom something is due, and since when. Each is found by one step along the index, however
/// much of it is one tenant's.
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
    select t.tenant_id, min(due.due_at) as due_at from (
        select tenant_id, now() as due_at from waiting
        union all
        select tenant_id, (select d.due_at from deliveries d where d.tenant_id = p.tenant_id and d.failed_at is null
                            order by d.due_at limit 1) from pending p) due
      join tenants t on t.tenant_id = due.tenant_id and t.status = 'active'
     where due.due_at <= now() group by t.tenant_id";

/// Takes events out of the outbox. A new message goes to those of its room who are offline now, and
/// to nobody if it is deleted by now. Who counts as online only because nobody knows yet whether he
/// comes back, or whose node was silent for two beats, is told: once too often is better than never.
/// And it waits for 0.4 seconds: so long may it take until a node notes that a connection has gone.
///
/// Rows are erased by their place, which stands while they are locked: by their ids it would be a filter
/// on all that the tenant has, as long as a plan is in use that was made when that was little.
const TAKE_OUT: &str = "
    with oldest as materialized (
        select ctid as place, event_id, event, room_id from outbox
         where tenant_id = $1 and event_id > $5
           and (event <> 'message.new' or at < clock_timestamp() - interval '400 milliseconds')
         order by event_id limit $2 for update skip locked),
    weighed as (
        select o.place, sum(coalesce(r.member_count, 0)) over (order by o.event_id) - coalesce(r.member_count, 0) as before
          from oldest o left join lateral (
            select member_count from rooms
             where o.event = 'message.new' and tenant_id = $1 and room_id = o.room_id limit 1) r on true),
    taken as materialized (
        delete from outbox where ctid = any (array(select place from weighed where before < $4))
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
    select (select event_id from taken order by event_id desc limit 1) as last,
           coalesce((select o.at >= clock_timestamp() - interval '400 milliseconds' from outbox o
                      where o.tenant_id = $1 order by o.event_id desc limit 1), false) as young";

/// What is about a room that is gone, or a message before its beginning, is found without it. Each is
/// looked up by its key: a join could be planned otherwise while the tables are small.
macro_rules! shown {
    ($source:literal) => {
        $crate::deliveries::shown!($source, "")
    };
    ($source:literal, $more:literal) => {
        concat!(
            "select d.event_id, d.tenant_id, d.event, d.at, d.room_id as about_room, d.user_ids, d.role as member_role,
                    d.attempts, d.last_status, d.last_error, d.failed_at",
            $more,
            ", ",
            crate::row::room_columns!(),
            ", ",
            crate::row::message_columns!(),
            " from ",
            $source,
            " d left join lateral (
                   select * from rooms where tenant_id = d.tenant_id and room_id = d.room_id limit 1) r on true
               left join lateral (
                   select * from messages where tenant_id = d.tenant_id and message_id = d.message_id
                      and room_id = r.room_id and seq >= r.first_seq limit 1) m on true"
        )
    };
}
pub(crate) use shown;

const CLAIM: &str = concat!(
    "with due as materialized (
        select event_id, due_at from deliveries
         where tenant_id = $1 and failed_at is null and due_at <= now() and due_at >= $4
         order by due_at limit $2 for update skip locked),
    claimed as (
        update deliveries d set due_at = now() + make_interval(secs => $3) from due
         where d.tenant_id = $1 and d.event_id = due.event_id
        returning d.*, due.due_at as was_due) ",
    shown!("claimed", ", d.was_due"),
    " order by d.event_id"
);

const DELIVERED: &str = "delete from deliveries where tenant_id = $1 and event_id = any ($2)";

const RETRY: &str = "
    update deliveries
       set attempts = attempts + 1, due_at = now() + make_interval(secs => $3), last_status = $4, last_error = $5
     where tenant_id = $1 and event_id = $2";

const GIVE_UP: &str = "
    update deliveries set attempts = attempts + $3, failed_at = now(), last_status = $4, last_error = $5
     where tenant_id = $1 and event_id = $2";

const FORGET_OLD: &str = "
    delete from deliveries where ctid = any (array(
        select ctid from deliveries where failed_at < now() - interval '7 days' limit 1000))
       and failed_at < now() - interval '7 days'";

/// Tenants that are gone, whose events are still there: a node of the version before, which does not know of
/// these tables, has erased them.
const ORPHANS: &str = "
    with recursive waiting as (
        (select tenant_id from outbox order by tenant_id limit 1)
        union all
        select (select o.tenant_id from outbox o where o.tenant_id > w.tenant_id order by o.tenant_id limit 1)
          from waiting w where w.tenant_id is not null),
    kept as (
        (select tenant_id from deliveries order by tenant_id limit 1)
        union all
        select (select d.tenant_id from deliveries d where d.tenant_id > k.tenant_id order by d.tenant_id limit 1)
          from kept k where k.tenant_id is not null)
    select tenant_id from (select tenant_id from waiting union select tenant_id from kept) t
     where tenant_id is not null and not exists (select from tenants where tenants.tenant_id = t.tenant_id)";

/// What a tenant has here, in steps.
pub(crate) const ERASE: [&str; 2] = [
    "delete from outbox where ctid = any (array(select ctid from outbox where tenant_id = $1 limit $2))",
    "delete from deliveries where ctid = any (array(select ctid from deliveries where tenant_id = $1 limit $2))",
];

impl Deliveries<'_> {
    /// Tenants for whom something is to be done, and since when.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn due(&self) -> Result<Vec<(TenantId, Timestamp)>> {
        let rows = self.db.query(DUE, &[]).await?;
        rows.iter().map(|row| Ok((get(row, "tenant_id")?, get(row, "due_at")?))).collect()
    }

    /// Takes some of what is in the tenant's outbox, from `floor` on.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn take(&self, tenant: TenantId, floor: &mut Floor) -> Result<Taken> {
        let max_users = i64::try_from(crate::outbox::MAX_USERS).unwrap_or(i64::MAX);
        let from = floor.event();
        let row = self.db.query_opt(TAKE_OUT, &[&tenant, &TAKE, &max_users, &TAKE_MEMBERS, &from]).await?;
        let Some(row) = row else { return Ok(Taken { any: false, young: false }) };
        let last: Option<EventId> = get(&row, "last")?;
        if let Some(last) = last {
            floor.taken = last.made_at();
        }
        Ok(Taken { any: last.is_some(), young: get(&row, "young")? })
    }

    /// Claims at most `limit` of what is due for the tenant, for as long as a lease, from `floor` on.
    /// What cannot be read is left out, and due again then.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn claim(&self, tenant: TenantId, limit: usize, floor: &mut Floor) -> Result<Claim> {
        let wanted = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.db.query(CLAIM, &[&tenant, &wanted, &LEASE, &floor.due()]).await?;
        let mut claim = Claim { deliveries: Vec::with_capacity(rows.len()), more: rows.len() == limit };
        for row in &rows {
            let due_at = get(row, "was_due")?;
            floor.claimed = floor.claimed.max(due_at);
            match delivery(row) {
                Ok(delivery) => claim.deliveries.push((delivery, due_at)),
                Err(error) => tracing::error!(tenant_id = %tenant, %error, "A webhook cannot be read"),
            }
        }
        Ok(claim)
    }

    /// These are done.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails; then they are made again when their lease is over.
    pub async fn delivered(&self, tenant: TenantId, done: &[EventId]) -> Result<()> {
        self.db.execute(DELIVERED, &[&tenant, &done]).await.map(|_| ())
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

/// Forgets dead letters a week after they became such, and what tenants have left that are gone.
pub(crate) async fn forget_old(db: &Db) -> Result<()> {
    while db.execute(FORGET_OLD, &[]).await? > 0 {}
    for row in &db.query(ORPHANS, &[]).await? {
        let tenant: TenantId = get(row, "tenant_id")?;
        for sql in ERASE {
            while db.execute(sql, &[&tenant, &1000_i64]).await? > 0 {}
        }
    }
    Ok(())
}
