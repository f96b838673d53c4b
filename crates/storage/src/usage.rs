//! What tenants used. One of the few files that see more than one tenant.
//!
//! `messages_sent` is exact: an open hour's messages are counted where they are, by their ids, and
//! those that were erased meanwhile by what erased them ([`tally_erased`]); an hour is closed when
//! nothing can come to it any more ([`close_hours`]). The rest is counted in memory
//! ([`Meter`](crate::Meter)) and added every few seconds.

use chatapi_domain::{TenantId, Timestamp};
use tokio_postgres::Row;

use crate::Result;
use crate::db::Db;
use crate::row::get;

/// One tenant's use of one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The tenant.
    pub tenant_id: TenantId,
    /// From this moment on.
    pub from: Timestamp,
    /// Before this one.
    pub to: Timestamp,
    /// Requests and WebSocket commands that were let in.
    pub requests: i64,
    /// Those over the rate limit.
    pub rate_limited: i64,
    /// Messages stored; exact.
    pub messages_sent: i64,
    /// Bytes of their contents.
    pub message_bytes: i64,
    /// Events written to WebSockets.
    pub events_delivered: i64,
    /// WebSockets open at once, at most: the sum of the nodes' peaks of an hour.
    pub peak_connections: i64,
    /// Users in whose name something was asked.
    pub active_users: i64,
    /// Attempts to deliver a webhook.
    pub webhook_attempts: i64,
}

/// How long the periods of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// From full hour to full hour, UTC.
    Hour,
    /// From midnight to midnight, UTC.
    Day,
}

impl Granularity {
    /// Seconds of one period.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// The beginning of the period in which `moment` is.
    #[must_use]
    pub const fn floor(self, moment: Timestamp) -> Timestamp {
        let period = self.seconds() * 1_000_000;
        Timestamp::from_micros(moment.as_micros().div_euclid(period) * period)
    }

    /// The end of the period before which `moment` is: `moment` itself if it is one's beginning.
    #[must_use]
    pub const fn ceil(self, moment: Timestamp) -> Timestamp {
        let floor = self.floor(moment);
        if floor.as_micros() == moment.as_micros() { floor } else { floor.plus_seconds(self.seconds()) }
    }
}

/// Usage of all tenants: for the operator.
#[derive(Debug, Clone, Copy)]
pub struct UsageLog<'a> {
    pub(crate) db: &'a Db,
}

/// Messages of `$1` from `$2` to `$3` by the hour: closed hours, erased ones, and the open rest.
macro_rules! sent {
    () => {
        "select hour, coalesce(total, erased)::bigint as messages from messages_sent
          where tenant_id = $1 and hour >= $2 and hour < $3
         union all
         select hour_of_id(m.message_id) as hour, count(*) as messages from messages m
          where m.tenant_id = $1 and m.message_id < first_id($3)
            and m.message_id >= first_id(greatest($2, (select counted_until from tenants where tenant_id = $1)))
          group by 1"
    };
}

/// A period of `$4` seconds a row.
const LIST: &str = concat!(
    "with sent as (",
    sent!(),
    "),
    counted as (
        select hour, sum(requests)::bigint as requests, sum(rate_limited)::bigint as rate_limited,
               sum(message_bytes)::bigint as message_bytes, sum(events_delivered)::bigint as events_delivered,
               sum(peak_connections)::bigint as peak_connections, sum(webhook_attempts)::bigint as webhook_attempts
          from usage where tenant_id = $1 and hour >= $2 and hour < $3 group by hour),
    active as (
        select (day + make_interval(hours => h)) at time zone 'UTC' as hour, user_id
          from active_users, generate_series(0, 23) h
         where tenant_id = $1 and day >= ($2 at time zone 'UTC')::date and day < ($3 at time zone 'UTC' + interval '1 day')::date
           and (hours >> h) & 1 = 1),
    periods as (
        select p as begins, p + make_interval(secs => $4) as ends
          from generate_series($2, $3 - interval '1 microsecond', make_interval(secs => $4)) p)
    select begins, ends,
           coalesce(c.requests, 0) as requests, coalesce(c.rate_limited, 0) as rate_limited,
           coalesce(s.messages, 0) as messages_sent, coalesce(c.message_bytes, 0) as message_bytes,
           coalesce(c.events_delivered, 0) as events_delivered, coalesce(c.peak_connections, 0) as peak_connections,
           coalesce(a.users, 0) as active_users, coalesce(c.webhook_attempts, 0) as webhook_attempts
      from periods
      left join (select date_bin(make_interval(secs => $4), hour, $2) as begins, sum(messages)::bigint as messages
                   from sent group by 1) s using (begins)
      left join (select date_bin(make_interval(secs => $4), hour, $2) as begins, sum(requests)::bigint as requests,
                        sum(rate_limited)::bigint as rate_limited, sum(message_bytes)::bigint as message_bytes,
                        sum(events_delivered)::bigint as events_delivered,
                        max(peak_connections)::bigint as peak_connections,
                        sum(webhook_attempts)::bigint as webhook_attempts
                   from counted group by 1) c using (begins)
      left join (select date_bin(make_interval(secs => $4), hour, $2) as begins, count(distinct user_id) as users
                   from active group by 1) a using (begins)
     order by begins"
);

/// The tenants that used anything, or sent anything, in a time; and all that there are.
const TENANTS: &str = "
    select tenant_id from (
        select tenant_id from tenants
        union select tenant_id from usage where hour >= $2 and hour < $3
        union select tenant_id from messages_sent where hour >= $2 and hour < $3) t
     where $1::uuid is null or tenant_id > $1
     order by tenant_id limit $4";

/// The whole time as one row.
const TOTAL: &str = concat!(
    "with sent as (",
    sent!(),
    "),
    counted as (
        select hour, sum(requests) as requests, sum(rate_limited) as rate_limited, sum(message_bytes) as message_bytes,
               sum(events_delivered) as events_delivered, sum(peak_connections) as peak_connections,
               sum(webhook_attempts) as webhook_attempts
          from usage where tenant_id = $1 and hour >= $2 and hour < $3 group by hour)
    select $2 as begins, $3 as ends,
           coalesce(sum(requests), 0)::bigint as requests, coalesce(sum(rate_limited), 0)::bigint as rate_limited,
           (select coalesce(sum(messages), 0)::bigint from sent) as messages_sent,
           coalesce(sum(message_bytes), 0)::bigint as message_bytes,
           coalesce(sum(events_delivered), 0)::bigint as events_delivered,
           coalesce(max(peak_connections), 0)::bigint as peak_connections,
           (select count(distinct user_id) from active_users
             where tenant_id = $1 and day >= ($2 at time zone 'UTC')::date and day < ($3 at time zone 'UTC')::date
           ) as active_users,
           coalesce(sum(webhook_attempts), 0)::bigint as webhook_attempts
      from counted"
);

/// Messages from `$2` to `$3`, without those whose ids are in `$4`: they are on their way.
const SENT: &str = concat!(
    "with sent as (",
    sent!(),
    ") select coalesce(sum(messages), 0)::bigint - (
        select count(*) from messages where tenant_id = $1 and message_id = any ($4)) as messages from sent"
);

impl UsageLog<'_> {
    /// One tenant's use, a row a period, from the one in which `from` is to the one in which `to` is.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn list(
        &self,
        tenant: TenantId,
        from: Timestamp,
        to: Timestamp,
        granularity: Granularity,
    ) -> Result<Vec<Usage>> {
        let (from, to) = (granularity.floor(from), granularity.ceil(to));
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let seconds = granularity.seconds() as f64;
        let rows = self.db.query(LIST, &[&tenant, &from, &to, &seconds]).await?;
        rows.iter().map(|row| read(tenant, row)).collect()
    }

    /// One row a tenant, of whole days, at most `limit` tenants behind `after`: those that there
    /// are, and those that are gone and used something in that time.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn totals(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<TenantId>,
        limit: i64,
    ) -> Result<Vec<Usage>> {
        let (from, to) = (Granularity::Day.floor(from), Granularity::Day.ceil(to));
        let mut totals = Vec::new();
        for row in self.db.query(TENANTS, &[&after, &from, &to, &limit]).await? {
            let tenant = get(&row, "tenant_id")?;
            let rows = self.db.query(TOTAL, &[&tenant, &from, &to]).await?;
            for row in &rows {
                totals.push(read(tenant, row)?);
            }
        }
        Ok(totals)
    }
}

fn read(tenant_id: TenantId, row: &Row) -> Result<Usage> {
    Ok(Usage {
        tenant_id,
        from: get(row, "begins")?,
        to: get(row, "ends")?,
        requests: get(row, "requests")?,
        rate_limited: get(row, "rate_limited")?,
        messages_sent: get(row, "messages_sent")?,
        message_bytes: get(row, "message_bytes")?,
        events_delivered: get(row, "events_delivered")?,
        peak_connections: get(row, "peak_connections")?,
        active_users: get(row, "active_users")?,
        webhook_attempts: get(row, "webhook_attempts")?,
    })
}

/// Messages a tenant has sent from one full hour to another, without those of these ids.
pub(crate) async fn sent(
    db: &Db,
    tenant: TenantId,
    from: Timestamp,
    to: Timestamp,
    without: &[chatapi_domain::MessageId],
) -> Result<i64> {
    let row = db.query_opt(SENT, &[&tenant, &from, &to, &without]).await?;
    row.as_ref().map_or(Ok(0), |row| get(row, "messages"))
}

/// The end of a statement that erases messages: `gone` holds the ids that went. Their hours keep
/// the count.
macro_rules! tally_erased {
    ($tenant:literal) => {
        concat!(
            "insert into messages_sent (tenant_id, hour, erased)
             select ",
            $tenant,
            ", hour_of_id(message_id), count(*) from gone group by 2 order by 2
                 on conflict (tenant_id, hour) do update set erased = messages_sent.erased + excluded.erased"
        )
    };
}
pub(crate) use tally_erased;

/// Tenants with hours that can be closed. An id can be stored as long as its `Idempotency-Key`
/// lives, which is 24 hours.
const OPEN: &str = "
    select tenant_id, greatest(counted_until, date_bin('1 hour', created_at, 'epoch') - interval '2 hours') as begins,
           date_bin('1 hour', now() - interval '26 hours', 'epoch') as ends
      from tenants
     where counted_until < date_bin('1 hour', now() - interval '26 hours', 'epoch')
       and status <> 'deleting' and created_at < now() - interval '26 hours'
     order by counted_until limit 100";

/// The count and what was erased are of one moment, so whatever is erased meanwhile is in one of
/// the two and not in both: what it adds later is not looked at any more. Only for the first who
/// closes these hours: of another nothing is changed.
const CLOSE: &str = "
    with mine as materialized (
        select from tenants where tenant_id = $1 and counted_until <= $2 for no key update),
    live as (
        select hour_of_id(message_id) as hour, count(*) as messages from messages
         where tenant_id = $1 and message_id >= first_id($2) and message_id < first_id($3) group by 1),
    erased as (
        select hour, erased as messages from messages_sent
         where tenant_id = $1 and hour >= $2 and hour < $3 and total is null),
    closed as (
        insert into messages_sent (tenant_id, hour, total)
        select $1, hour, sum(messages)::bigint from (select * from live union all select * from erased) m
         where exists (select from mine) group by hour order by hour
            on conflict (tenant_id, hour) do update set total = excluded.total where messages_sent.total is null)
    update tenants set counted_until = $3 where tenant_id = $1 and exists (select from mine)";

const STALE_USERS: &str = "delete from active_users where ctid = any (array(
    select ctid from active_users where day < (now() at time zone 'UTC')::date - 400 limit 10000))";

/// Closes hours to which nothing can come any more; a quarter of a day of a tenant at a time.
pub(crate) async fn close_hours(db: &Db) -> Result<()> {
    const STEP: i64 = 21_600;
    loop {
        let open = db.query(OPEN, &[]).await?;
        let mut closed = 0;
        for row in &open {
            let tenant: TenantId = get(row, "tenant_id")?;
            let (mut from, ends): (Timestamp, Timestamp) = (get(row, "begins")?, get(row, "ends")?);
            while from < ends {
                let to = from.plus_seconds(STEP).min(ends);
                match db.execute(CLOSE, &[&tenant, &from, &to]).await {
                    Ok(1) => closed += 1,
                    // Another node is at it.
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(tenant_id = %tenant, %error, "Hours will be closed later");
                        break;
                    }
                }
                from = to;
            }
        }
        // Those that failed are looked at again with the next sweep.
        if closed == 0 {
            break;
        }
    }
    db.execute(STALE_USERS, &[]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use chatapi_domain::{RoomId, TenantId, Timestamp};
    use chatapi_testkit::Database;

    use super::{Granularity, UsageLog, close_hours};
    use crate::db::Db;
    use crate::erasure::erase_messages;
    use crate::{Connector, Result};

    /// One message each half minute of two days, four days ago.
    const FILL: &str = "
        with tenant as (
            insert into tenants (tenant_id, name, status, config, created_at)
            values ($1, 't', 'active', '{}', now() - interval '5 days') returning tenant_id),
        room as (
            insert into rooms (tenant_id, room_id, type, member_count, last_seq, created_at, updated_at, active_at, active_hour)
            select tenant_id, $2, 'group', 0, 5760, now(), now(), now(), 0 from tenant returning room_id)
        insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, created_at)
        select $1, room_id, n, (left(first_id(at)::text, 13) || right(gen_random_uuid()::text, 23))::uuid, 'alice', 'x', at
          from room, generate_series(1, 5760) n, lateral (select now() - interval '4 days' + n * interval '30 seconds') t (at)";

    #[tokio::test]
    async fn hours_are_closed_once_whoever_closes_them_and_whatever_is_erased_meanwhile() -> Result<()> {
        let database = Database::new().await;
        let connector = Connector::parse(database.url()).expect("our own URL");
        let db = Db::new(&connector, 8)?;
        let (tenant, room) = (TenantId::new(Timestamp::from_micros(1)), RoomId::new(Timestamp::from_micros(1)));
        assert_eq!(db.execute(FILL, &[&tenant, &room]).await?, 5760);
        let now = db.query_opt("select now() as now", &[]).await?.expect("a row").get::<_, Timestamp>("now");
        let hours = async || {
            let from = now.plus_seconds(-6 * 86_400);
            let hours = UsageLog { db: &db }.list(tenant, from, now, Granularity::Hour).await?;
            Ok::<_, crate::Error>(hours.iter().map(|hour| hour.messages_sent).collect::<Vec<_>>())
        };
        let before = hours().await?;
        assert_eq!(before.iter().sum::<i64>(), 5760);

        let erase = async {
            for from in (1..=5760).step_by(40) {
                erase_messages(&db, tenant, room, from, from + 40).await?;
                assert_eq!(hours().await?, before, "at every moment");
            }
            Ok::<_, crate::Error>(())
        };
        let close = || close_hours(&db);
        tokio::try_join!(erase, close(), close(), close(), close())?;

        assert_eq!(hours().await?, before);
        let closed = "select sum(total)::bigint as total from messages_sent where tenant_id = $1";
        let total: i64 = db.query_opt(closed, &[&tenant]).await?.expect("a row").get("total");
        assert_eq!(total, 5760, "the hours of three and four days ago are closed");
        Ok(())
    }
}
