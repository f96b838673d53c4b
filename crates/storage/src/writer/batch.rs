//! The statements that store messages.
//!
//! Both do the same, for one message and for many: the sender must be a member, `reply_to` a
//! message of the room, and the `client_message_id` new; then the room's row is locked, its
//! counter moved, the messages stored and the sender's own positions set to them. A message that
//! breaks a rule is missing from the result and has cost no number.

use std::collections::HashMap;

use chatapi_domain::{Json, NewMessage, TenantId, Timestamp};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::{Job, Outcome};
use crate::outbox::{message_events, outbox_of_messages};

/// Stores one message. Times are taken after the lock, so that they follow `seq`, also when the
/// clock steps back.
macro_rules! bump_one {
    () => {
        "
    with bumped as (
        update rooms r
           set last_seq = r.last_seq + 1,
               active_at = greatest(r.active_at, clock_timestamp()),
               active_hour = floor(date_part('epoch', greatest(r.active_at, clock_timestamp())) / 3600)::int
         where r.tenant_id = $1 and r.room_id = $2
           and exists (select from room_members m
                        where m.tenant_id = $1 and m.user_id = $3 and m.room_id = $2)
           and ($8::uuid is null or exists (
                   select from messages q where q.tenant_id = $1 and q.message_id = $8 and q.room_id = $2))
           and ($7::text is null or not exists (
                   select from messages d where d.tenant_id = $1 and d.room_id = $2
                      and d.sender_id = $3 and d.client_message_id = $7))
        returning r.last_seq as seq, r.active_at),
    read as (
        update room_members m set delivered_seq = bumped.seq, read_seq = bumped.seq, receipt_at = bumped.active_at
          from bumped where m.tenant_id = $1 and m.user_id = $3 and m.room_id = $2)"
    };
}

macro_rules! insert_one {
    () => {
        "
    insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, meta, client_message_id,
                          reply_to, created_at)
    select $1, $2, seq, $4, $3, $5, $6::text::json, $7, $8, active_at from bumped
    returning 1::bigint as ord, seq, created_at"
    };
}

/// As above, for a tenant whose endpoint is not told of messages.
pub const ONE: &str = concat!(bump_one!(), insert_one!());

/// The same, and its events into the outbox.
pub(super) const ONE_TOLD: &str = concat!(
    bump_one!(),
    ", stored as (",
    insert_one!(),
    "), told as (",
    outbox_of_messages!(),
    "select $1, new_id(), e.event, $2, $4, s.created_at from stored s, ",
    message_events!(),
    " where $9::int & e.bit <> 0)
    select ord, seq, created_at from stored"
);

/// Rooms are locked in the order of their ids: batches of several nodes would deadlock otherwise. A
/// nested loop over the sorted input does that, and is the only join that the session allows. What
/// only the new rows need stays in the parameters until then.
macro_rules! store_many {
    () => {
        "
    with allowed as (
        select i.tenant_id, i.room_id, count(*) as n, array_agg(i.ord order by i.ord) as ords
          from unnest($1::uuid[], $2::uuid[], $3::text[], $7::text[], $8::uuid[])
                   with ordinality i (tenant_id, room_id, sender_id, client_message_id, reply_to, ord)
          join room_members m on m.tenant_id = i.tenant_id and m.user_id = i.sender_id and m.room_id = i.room_id
         where (i.reply_to is null or exists (
                   select from messages q
                    where q.tenant_id = i.tenant_id and q.message_id = i.reply_to and q.room_id = i.room_id))
           and (i.client_message_id is null or not exists (
                   select from messages d where d.tenant_id = i.tenant_id and d.room_id = i.room_id
                      and d.sender_id = i.sender_id and d.client_message_id = i.client_message_id))
         group by i.tenant_id, i.room_id order by i.tenant_id, i.room_id offset 0),
    bumped as (
        update rooms r
           set last_seq = r.last_seq + l.n,
               active_at = greatest(r.active_at, clock_timestamp()),
               active_hour = floor(date_part('epoch', greatest(r.active_at, clock_timestamp())) / 3600)::int
          from allowed l where r.tenant_id = l.tenant_id and r.room_id = l.room_id
        returning r.tenant_id, r.room_id, r.last_seq - l.n as base, r.active_at, l.ords),
    numbered as materialized (
        select b.tenant_id, b.room_id, b.base + x.nth as seq, b.active_at, x.ord, ($3::text[])[x.ord] as sender_id
          from bumped b, unnest(b.ords) with ordinality as x (ord, nth)),
    read as (
        update room_members m set delivered_seq = n.seq, read_seq = n.seq, receipt_at = n.active_at
          from (select tenant_id, room_id, sender_id, max(seq) as seq, max(active_at) as active_at
                  from numbered group by tenant_id, room_id, sender_id) n
         where m.tenant_id = n.tenant_id and m.user_id = n.sender_id and m.room_id = n.room_id),
    stored as (
        insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, meta, client_message_id,
                              reply_to, created_at)
        select tenant_id, room_id, seq, ($4::uuid[])[ord], sender_id, ($5::text[])[ord], ($6::text[])[ord]::json,
               ($7::text[])[ord], ($8::uuid[])[ord], active_at
          from numbered)"
    };
}

const MANY: &str = concat!(store_many!(), " select ord, seq, active_at as created_at from numbered");

/// The same, and their events into the outbox.
const MANY_TOLD: &str = concat!(
    store_many!(),
    ", told as (",
    outbox_of_messages!(),
    "select n.tenant_id, new_id(), e.event, n.room_id, ($4::uuid[])[n.ord], n.active_at from numbered n, ",
    message_events!(),
    " where ($9::int[])[n.ord] & e.bit <> 0)
    select ord, seq, active_at as created_at from numbered"
);

/// The prepared statements of one connection.
#[derive(Debug)]
pub(super) struct Statements {
    one: Statement,
    one_told: Statement,
    many: Statement,
    many_told: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (one, one_told) = tokio::try_join!(client.prepare(ONE), client.prepare(ONE_TOLD))?;
        let (many, many_told) = tokio::try_join!(client.prepare(MANY), client.prepare(MANY_TOLD))?;
        Ok(Self { one, one_told, many, many_told })
    }

    /// Stores what may be stored of `jobs`, in one statement: all of it or, on an error, nothing.
    pub(super) async fn store(&self, client: &Client, jobs: &[Job]) -> Result<Vec<Outcome>, Error> {
        let rows = match jobs {
            [job] if job.told == 0 => {
                client.query(&self.one, &one(&job.tenant, &job.new, &Texts::of(&job.new))).await?
            }
            [job] => {
                let texts = Texts::of(&job.new);
                let parameters = one(&job.tenant, &job.new, &texts);
                client.query(&self.one_told, &[&parameters[..], &[&job.told]].concat()).await?
            }
            jobs => self.many(client, jobs).await?,
        };
        let mut places: HashMap<i64, Outcome> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (ord, outcome) = read(row)?;
            places.insert(ord, outcome);
        }
        Ok((1..).take(jobs.len()).map(|ord| places.remove(&ord).unwrap_or(Outcome::Refused)).collect())
    }

    async fn many(&self, client: &Client, jobs: &[Job]) -> Result<Vec<Row>, Error> {
        fn column<'a, T>(jobs: &'a [Job], value: impl Fn(&'a Job) -> T) -> Vec<T> {
            jobs.iter().map(value).collect()
        }
        let tenants = column(jobs, |job| &job.tenant);
        let rooms = column(jobs, |job| &job.new.room_id);
        let senders = column(jobs, |job| &job.new.sender_id);
        let ids = column(jobs, |job| &job.new.message_id);
        let contents = column(jobs, |job| job.new.content.as_str());
        let metas = column(jobs, |job| job.new.meta.as_ref().map(Json::as_str));
        let client_ids = column(jobs, |job| job.new.client_message_id.as_ref());
        let replies = column(jobs, |job| job.new.reply_to);
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&tenants, &rooms, &senders, &ids, &contents, &metas, &client_ids, &replies];
        if jobs.iter().all(|job| job.told == 0) {
            return client.query(&self.many, &parameters).await;
        }
        let told = column(jobs, |job| job.told);
        client.query(&self.many_told, &[&parameters[..], &[&told]].concat()).await
    }
}

/// The texts of a message, in the form in which they are parameters.
pub(super) struct Texts<'a> {
    content: &'a str,
    meta: Option<&'a str>,
}

impl<'a> Texts<'a> {
    pub(super) fn of(new: &'a NewMessage) -> Self {
        Self { content: new.content.as_str(), meta: new.meta.as_ref().map(Json::as_str) }
    }
}

/// The parameters of [`ONE`].
pub(super) fn one<'a>(tenant: &'a TenantId, new: &'a NewMessage, texts: &'a Texts<'a>) -> [&'a (dyn ToSql + Sync); 8] {
    [
        tenant,
        &new.room_id,
        &new.sender_id,
        &new.message_id,
        &texts.content,
        &texts.meta,
        &new.client_message_id,
        &new.reply_to,
    ]
}

/// What became of the one message that [`ONE`] was asked to store.
pub(super) fn outcome(rows: &[Row]) -> Result<Outcome, Error> {
    rows.first().map_or(Ok(Outcome::Refused), |row| read(row).map(|(_, outcome)| outcome))
}

fn read(row: &Row) -> Result<(i64, Outcome), Error> {
    let (seq, created_at): (i64, Timestamp) = (row.try_get("seq")?, row.try_get("created_at")?);
    Ok((row.try_get("ord")?, Outcome::Stored { seq, created_at }))
}
