//! First answers of requests with an `Idempotency-Key`, so that nothing is done twice.
//!
//! A request first reserves its key, which also fixes the id of whatever it makes: run again
//! after a crash it finds what the first run made. Then it works, and keeps its answer or gives
//! the key back.

use chatapi_domain::{MessageId, RoomId, TenantId, Timestamp};
use uuid::Uuid;

use crate::db::Db;
use crate::row::get;
use crate::{Error, Result};

/// How long answers are kept, in seconds.
const KEEP: i64 = 24 * 60 * 60;

/// How long a reservation holds if the process that made it dies, in seconds; longer than any
/// request may take.
const LEASE: i64 = 60;

/// First answers of one caller's tenant, or of the operator.
#[derive(Debug, Clone, Copy)]
pub struct Idempotency<'a> {
    pub(crate) db: &'a Db,
    pub(crate) tenant: TenantId,
}

/// Names a request that may come again.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// The user, or empty for the tenant itself.
    pub caller: String,
    /// The path of the request.
    pub path: String,
    /// The key the caller chose.
    pub key: String,
    /// The SHA-256 of the body.
    pub fingerprint: [u8; 32],
}

/// What became of a reservation.
#[derive(Debug)]
pub enum Begun {
    /// The key is ours: do the work, under this id.
    Run(Uuid),
    /// It was done before.
    Replay(Answer),
    /// Another request is doing it at this moment.
    Busy,
    /// The key was used for another body.
    Reused,
}

/// An answer that was kept.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; absent if what it showed was erased since.
    pub body: Option<Vec<u8>>,
    /// The message it shows, if it shows one.
    pub shows: Option<Shows>,
}

/// The message that an answer shows; erased, it is erased from the answer too.
#[derive(Debug, Clone, Copy)]
pub struct Shows {
    /// Its room.
    pub room_id: RoomId,
    /// The message.
    pub message_id: MessageId,
}

/// Takes the key if it is free, or was left by a process that died, or is too old to count.
const RESERVE: &str = "
    insert into idempotency_keys as k
           (tenant_id, caller, path, key, fingerprint, subject_id, created_at, locked_until)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (tenant_id, caller, key, path) do update
       set locked_until = excluded.locked_until,
           fingerprint = excluded.fingerprint,
           subject_id = case when k.created_at < $9 then excluded.subject_id else k.subject_id end,
           created_at = case when k.created_at < $9 then excluded.created_at else k.created_at end,
           status = null, body = null, room_id = null, message_id = null
     where k.created_at < $9
        or (k.status is null and k.locked_until < $7 and k.fingerprint = excluded.fingerprint)
 returning subject_id";

const FIND: &str = "
    select fingerprint, status, body, room_id, message_id from idempotency_keys
     where tenant_id = $1 and caller = $2 and path = $3 and key = $4";

/// Keeps an answer. The message it shows is locked meanwhile, so that one who erases it at this
/// moment either is waited for or finds the answer.
const KEEP_ANSWER: &str = "
    with shown as (
        select m.deleted_at from rooms r join messages m using (tenant_id, room_id)
         where m.tenant_id = $1 and m.message_id = $8 and r.room_id = $7
           for share of m for key share of r)
    update idempotency_keys
       set status = $5, room_id = $7, message_id = $8,
           body = case when $8::uuid is null or exists (select from shown where deleted_at is null) then $6::bytea end
     where tenant_id = $1 and caller = $2 and path = $3 and key = $4";

const RELEASE: &str = "
    delete from idempotency_keys
     where tenant_id = $1 and caller = $2 and path = $3 and key = $4 and status is null";

const FORGET_OLD: &str = "
    delete from idempotency_keys
     where ctid = any (array(
        select ctid from idempotency_keys where created_at < now() - interval '25 hours' limit 1000))";

impl Idempotency<'_> {
    /// Reserves the key for a request, or says what became of it. `fresh` is the id to use if the
    /// key is new.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn begin(&self, request: &Reservation, fresh: Uuid, now: Timestamp) -> Result<Begun> {
        let Reservation { caller, path, key, fingerprint } = request;
        let (until, oldest) = (now.plus_seconds(LEASE), now.plus_seconds(-KEEP));
        let reserved = self
            .db
            .query_opt(
                RESERVE,
                &[&self.tenant, caller, path, key, &fingerprint.as_slice(), &fresh, &now, &until, &oldest],
            )
            .await?;
        if let Some(row) = reserved {
            return get(&row, "subject_id").map(Begun::Run);
        }
        let Some(row) = self.db.query_opt(FIND, &[&self.tenant, caller, path, key]).await? else {
            return Ok(Begun::Busy);
        };
        if get::<&[u8]>(&row, "fingerprint")? != fingerprint {
            return Ok(Begun::Reused);
        }
        let Some(status) = get::<Option<i16>>(&row, "status")? else { return Ok(Begun::Busy) };
        let status =
            u16::try_from(status).map_err(|error| Error::Corrupt { column: "status", source: error.into() })?;
        let room: Option<RoomId> = get(&row, "room_id")?;
        let message: Option<MessageId> = get(&row, "message_id")?;
        let shows = room.zip(message).map(|(room_id, message_id)| Shows { room_id, message_id });
        Ok(Begun::Replay(Answer { status, body: get(&row, "body")?, shows }))
    }

    /// Keeps the answer for whoever asks again.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn keep(&self, request: &Reservation, answer: &Answer) -> Result<()> {
        let Reservation { caller, path, key, .. } = request;
        let status = i16::try_from(answer.status).unwrap_or(i16::MAX);
        let room = answer.shows.map(|shows| shows.room_id);
        let message = answer.shows.map(|shows| shows.message_id);
        self.db
            .execute(KEEP_ANSWER, &[&self.tenant, caller, path, key, &status, &answer.body, &room, &message])
            .await
            .map(|_| ())
    }

    /// Gives the key back: nothing was done, the next request may try.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails; the reservation then ends by itself.
    pub async fn release(&self, request: &Reservation) -> Result<()> {
        let Reservation { caller, path, key, .. } = request;
        self.db.execute(RELEASE, &[&self.tenant, caller, path, key]).await.map(|_| ())
    }
}

/// Forgets a thousand answers that are too old.
pub(crate) async fn forget_old(db: &Db) -> Result<()> {
    db.execute(FORGET_OLD, &[]).await.map(|_| ())
}
