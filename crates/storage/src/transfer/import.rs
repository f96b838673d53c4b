//! Reads a tenant from lines.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{Fact, Invalid, Json, Tenant, TenantId, TenantKey, Timestamp};
use futures_util::Stream;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::Imported;
use super::check::{Check, Header};
use super::connection::Connection;
use super::copy::Copy;
use super::line::{LastSeenLine, Line, MemberLine, MessageLine, RoomLine};
use super::lines::Lines;
use crate::feed::notices;
use crate::rooms::hour;
use crate::{Connector, Error, Result};

/// Bytes of rows that are copied at once: some 20 milliseconds of work.
const PIECE: usize = 1 << 20;

const CREATE: &str = "
    insert into tenants (tenant_id, name, status, config, created_at) values ($1, $2, $3, $4::text::jsonb, $5)
        on conflict do nothing";

const CREATE_KEY: &str = "
    insert into tenant_keys (tenant_id, key_id, secret_hash, created_at, expires_at) values ($1, $2, $3, $4, $5)";

/// What a connection leaves that outlives its tenant for a moment: the id may have been used before.
const FORGET_SEEN: &str = "delete from last_seen where tenant_id = $1";

/// Messages of an earlier tenant of this id are counted as erased. Those that are back are counted
/// where they are; all hours are open again.
const COUNT_ANEW: &str = "
    update messages_sent s
       set total = null,
           erased = greatest(0, coalesce(s.total, s.erased) - (
               select count(*) from messages m
                where m.tenant_id = $1 and m.message_id >= first_id(s.hour)
                  and m.message_id < first_id(s.hour + interval '1 hour')))
     where s.tenant_id = $1";

const NOTIFY: &str = "select count(pg_notify('chatapi', p)) from unnest($1::text[]) p";

const ROOMS: &str = "
    copy rooms (tenant_id, room_id, type, unique_key, name, metadata, first_seq, last_seq, last_change, member_count,
                created_by, created_at, updated_at, active_at, active_hour) from stdin binary";
/// Of `json` what is sent is the text.
const ROOM_TYPES: [Type; 15] = [
    Type::UUID,
    Type::UUID,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::INT8,
    Type::INT8,
    Type::INT4,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::INT4,
];

const MEMBERS: &str = "
    copy room_members (tenant_id, room_id, user_id, role, joined_at, delivered_seq, read_seq, receipt_at)
    from stdin binary";
const MEMBER_TYPES: [Type; 8] =
    [Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::INT8, Type::INT8, Type::TIMESTAMPTZ];

const MESSAGES: &str = "
    copy messages (tenant_id, room_id, seq, message_id, sender_id, content, meta, client_message_id, reply_to,
                   created_at, edited_at, deleted_at, change) from stdin binary";
const MESSAGE_TYPES: [Type; 13] = [
    Type::UUID,
    Type::UUID,
    Type::INT8,
    Type::UUID,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::UUID,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMPTZ,
    Type::INT8,
];

const LAST_SEEN: &str = "copy last_seen (tenant_id, user_id, seen_at) from stdin binary";
const LAST_SEEN_TYPES: [Type; 3] = [Type::UUID, Type::TEXT, Type::TIMESTAMPTZ];

/// What is to be imported, and as what.
pub(super) struct Order<'a> {
    pub(super) into: Option<TenantId>,
    pub(super) key: &'a TenantKey,
    pub(super) now: Timestamp,
    pub(super) patience: Duration,
    pub(super) connector: &'a Connector,
}

/// Imports what `source` brings: all of it or nothing.
pub(super) async fn run<S>(order: Order<'_>, source: S) -> Result<Imported>
where
    S: Stream<Item = io::Result<Bytes>> + Unpin,
{
    let mut lines = Lines::new(source, order.patience);
    // Before anything is asked of the database.
    let first = lines.next().await?.unwrap_or_default();
    let (mut check, header) = Check::begin(&first).map_err(|wrong| lines.wrong(&wrong))?;
    let tenant = tenant(&order, header);
    if tenant.tenant_id.as_uuid().is_nil() {
        // Under that the operator's own first answers are kept.
        return Err(Invalid::new("tenant_id", "expected another one: this is no tenant's").into());
    }

    let mut connection = Connection::open(order.connector).await?;
    let tx = connection.client.transaction().await?;
    create(&tx, &tenant, &order).await?;
    let mut rows = Rows::new(tenant.tenant_id);
    loop {
        let cut = || Invalid::new("the file", "ends here: the rest of it, and its last line, are missing");
        let line = lines.next().await?.ok_or_else(|| lines.wrong(&cut()))?;
        let checked = check.next(&line).map_err(|wrong| lines.wrong(&wrong))?;
        if let Line::End(_) = checked {
            break;
        }
        rows.push(lines.number(), &checked).map_err(|error| match error {
            Error::Invalid(wrong) => lines.wrong(&wrong).into(),
            other => other,
        })?;
        if rows.waiting() >= PIECE {
            rows.flush(&tx).await?;
        }
    }
    if lines.next().await?.is_some() {
        return Err(lines.wrong(&Invalid::new("the file", "goes on after its last line")).into());
    }
    rows.flush(&tx).await?;
    tx.execute(COUNT_ANEW, &[&tenant.tenant_id]).await?;
    // Whoever remembers something of an earlier tenant of this id forgets it.
    tx.execute(NOTIFY, &[&notices(tenant.tenant_id, &[Fact::TenantChanged])?]).await?;
    tx.commit().await?;
    let counts = check.counts();
    tracing::info!(tenant_id = %tenant.tenant_id, counts.rooms, counts.messages, "Imported a tenant");
    Ok(Imported { tenant, counts })
}

fn tenant(order: &Order<'_>, header: Header) -> Tenant {
    let Header { line, name, config } = header;
    Tenant {
        tenant_id: order.into.unwrap_or(line.tenant.tenant_id),
        name,
        status: line.tenant.status,
        config,
        created_at: line.tenant.created_at.0,
    }
}

/// Makes the tenant, which nobody sees before the end, and keeps its id from others until then.
async fn create(tx: &Transaction<'_>, tenant: &Tenant, order: &Order<'_>) -> Result<()> {
    let (id, key) = (&tenant.tenant_id, order.key);
    let config = tenant.config.to_stored().to_string();
    let parameters: &crate::db::Params<'_> = &[id, &tenant.name, &tenant.status.as_str(), &config, &tenant.created_at];
    let made = match tx.execute(CREATE, parameters).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            return Err(Error::Conflict("A tenant of this id is being imported at this moment"));
        }
        made => made?,
    };
    if made == 0 {
        return Err(Error::Conflict("There is a tenant of this id"));
    }
    tx.execute(CREATE_KEY, &[id, &key.key_id, &key.secret_hash, &order.now, &key.expires_at]).await?;
    tx.execute(FORGET_SEEN, &[id]).await?;
    Ok(())
}

/// Rows of all tables that wait for being copied.
struct Rows {
    tenant: TenantId,
    rooms: Copy,
    members: Copy,
    messages: Copy,
    last_seen: Copy,
}

impl Rows {
    fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            rooms: Copy::new(ROOMS, const { &ROOM_TYPES }),
            members: Copy::new(MEMBERS, const { &MEMBER_TYPES }),
            messages: Copy::new(MESSAGES, const { &MESSAGE_TYPES }),
            last_seen: Copy::new(LAST_SEEN, const { &LAST_SEEN_TYPES }),
        }
    }

    fn waiting(&self) -> usize {
        self.rooms.waiting() + self.members.waiting() + self.messages.waiting() + self.last_seen.waiting()
    }

    /// In this order, because members refer to their room.
    async fn flush(&mut self, tx: &Transaction<'_>) -> Result<()> {
        for table in [&mut self.rooms, &mut self.members, &mut self.messages, &mut self.last_seen] {
            table.flush(tx).await?;
        }
        Ok(())
    }

    fn push(&mut self, number: u64, line: &Line<'_>) -> Result<()> {
        match line {
            Line::Room(room) => self.room(number, room),
            Line::Member(member) => self.member(number, member),
            Line::Message(message) => self.message(number, message),
            Line::LastSeen(seen) => self.seen(number, seen),
            Line::Export(_) | Line::End(_) => Ok(()),
        }
    }

    fn room(&mut self, number: u64, line: &RoomLine<'_>) -> Result<()> {
        let (name, metadata) = (line.checked_name()?, line.checked_metadata()?);
        let values: &[&(dyn ToSql + Sync)] = &[
            &self.tenant,
            &line.room_id,
            &line.room_type.as_str(),
            &line.unique_key.as_deref(),
            &name,
            &metadata.as_ref().map(Json::as_str),
            &line.first_seq,
            &line.last_seq,
            &line.last_change,
            &line.member_count,
            &line.created_by,
            &line.created_at.0,
            &line.updated_at.0,
            &line.active_at.0,
            &hour(line.active_at.0),
        ];
        self.rooms.push(number, values)
    }

    fn member(&mut self, number: u64, line: &MemberLine) -> Result<()> {
        let values: &[&(dyn ToSql + Sync)] = &[
            &self.tenant,
            &line.room_id,
            &line.user_id,
            &line.role.as_str(),
            &line.joined_at.0,
            &line.delivered_seq,
            &line.read_seq,
            &line.receipt_at.0,
        ];
        self.members.push(number, values)
    }

    fn message(&mut self, number: u64, line: &MessageLine<'_>) -> Result<()> {
        let meta = line.checked_meta()?;
        let values: &[&(dyn ToSql + Sync)] = &[
            &self.tenant,
            &line.room_id,
            &line.seq,
            &line.message_id,
            &line.sender_id,
            &line.content.as_ref(),
            &meta.as_ref().map(Json::as_str),
            &line.client_message_id.as_deref(),
            &line.reply_to,
            &line.created_at.0,
            &line.edited_at.map(|moment| moment.0),
            &line.deleted_at.map(|moment| moment.0),
            &line.change,
        ];
        self.messages.push(number, values)
    }

    fn seen(&mut self, number: u64, line: &LastSeenLine) -> Result<()> {
        self.last_seen.push(number, &[&self.tenant, &line.user_id, &line.seen_at.0])
    }
}
