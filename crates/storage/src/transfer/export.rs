//! Writes a tenant as lines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{Config, RoomId, Tenant, TenantId, TenantStatus, Timestamp};
use futures_util::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::{IsolationLevel, Row, Transaction};
use tracing::Instrument;

use super::check::hex;
use super::connection::Connection;
use super::cursor::Cursor;
use super::line::{
    Counts, EndLine, FORMAT, HeaderLine, LastSeenLine, Line, MemberLine, MessageLine, Moment, RoomLine, TenantLine,
    VERSION, own,
};
use crate::row::{at, get};
use crate::{Connector, Error, Result, Store, tenants};

/// Bytes handed over at once, about; and how many such pieces may wait for the reader.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 4;

/// Rows fetched at once: of messages so few that they are 20 MB if all are of the greatest length.
const ROWS: i32 = 500;
const MESSAGES: i32 = 100;

const TENANT: &str = "
    select tenant_id, name, status, (config - $2::text[])::text as config, created_at
      from tenants where tenant_id = $1";

/// By what the rooms say of themselves, which costs little.
const TOTALS: &str = "
    select count(*) as rooms, coalesce(sum(member_count), 0)::bigint as members,
           coalesce(sum(last_seq - first_seq + 1), 0)::bigint as messages,
           (select count(*) from last_seen where tenant_id = $1) as last_seen
      from rooms where tenant_id = $1";

const ROOMS_OF: &str = "
    select room_id, type, unique_key, name, metadata::text, first_seq, last_seq, last_change, member_count, created_by,
           created_at, updated_at, active_at
      from rooms where tenant_id = $1 order by room_id";

const MEMBERS_OF: &str = "
    select room_id, user_id, role, joined_at, delivered_seq, read_seq, receipt_at
      from room_members where tenant_id = $1 order by room_id, user_id";

/// Of rooms that are being erased too: those are passed over when they come.
const MESSAGES_OF: &str = "
    select room_id, seq, message_id, sender_id, content, meta::text, client_message_id, reply_to, created_at,
           edited_at, deleted_at, change
      from messages where tenant_id = $1 order by room_id, seq";

const LAST_SEEN_OF: &str = "select user_id, seen_at from last_seen where tenant_id = $1 order by user_id";

/// A tenant on its way out: the bytes of its lines. If it ends with an error, or is dropped before
/// its end, what came is no whole export and cannot be imported.
#[derive(Debug)]
pub struct Export {
    totals: Counts,
    /// An empty one says that it was the whole.
    chunks: mpsc::Receiver<Result<Bytes>>,
    has_ended: bool,
}

impl Export {
    /// How much there will be.
    #[must_use]
    pub const fn totals(&self) -> Counts {
        self.totals
    }

    pub(super) async fn begin(order: Order, permit: OwnedSemaphorePermit, store: &Store) -> Result<Self> {
        let (opened, opening) = oneshot::channel();
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let until_closed = store.clone();
        let work = async move {
            let _ = until_closed.until_closed(Box::pin(order.run(opened, sender))).await;
            drop(permit);
        };
        store.spawn(work.in_current_span());
        let totals = opening.await.map_err(|_| Error::unavailable("the store is being closed"))??;
        Ok(Self { totals, chunks, has_ended: false })
    }
}

impl Stream for Export {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let next = match ready!(self.chunks.poll_recv(context)) {
            Some(Ok(chunk)) if chunk.is_empty() => None,
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(Error::unavailable("an export was given up before its end"))),
        };
        self.has_ended = true;
        Poll::Ready(next)
    }
}

/// What is to be exported.
pub(super) struct Order {
    pub(super) tenant: TenantId,
    pub(super) now: Timestamp,
    pub(super) patience: Duration,
    pub(super) connector: Connector,
}

impl Order {
    /// Says how much there is, or why there is nothing; then sends it, or why there is no more.
    async fn run(self, opened: oneshot::Sender<Result<Counts>>, sender: mpsc::Sender<Result<Bytes>>) {
        let mut connection = match Connection::open(&self.connector).await {
            Ok(connection) => connection,
            Err(error) => return drop(opened.send(Err(error))),
        };
        let begun = async {
            let settings = connection.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
            let tx = settings.read_only(true).start().await?;
            let (tenant, totals) = (find(&tx, self.tenant).await?, totals(&tx, self.tenant).await?);
            Ok((tx, tenant, totals))
        };
        let (tx, tenant, totals) = match begun.await {
            Ok(begun) => begun,
            Err(error) => return drop(opened.send(Err(error))),
        };
        if opened.send(Ok(totals)).is_err() {
            return;
        }
        let mut writer = Writer::new(sender, self.patience);
        match write(&tx, &tenant, self.now, totals, &mut writer).await {
            Ok(()) => {
                let Counts { rooms, messages, .. } = totals;
                tracing::info!(tenant_id = %self.tenant, rooms, messages, "Exported a tenant");
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(tenant_id = %self.tenant, %error, source, "An export ended before its end");
                // Whoever stands still learns it from the missing end.
                let _ = writer.sender.try_send(Err(error));
            }
        }
    }
}

async fn find(tx: &Transaction<'_>, tenant: TenantId) -> Result<Tenant> {
    let row = tx.query_opt(TENANT, &[&tenant, &&Config::SECRETS[..]]).await?;
    let found = row.as_ref().map(tenants::read).transpose()?.ok_or(Error::NotFound("Tenant"))?;
    let leaves = found.status == TenantStatus::Deleting;
    if leaves { Err(Error::BEING_DELETED) } else { Ok(found) }
}

async fn totals(tx: &Transaction<'_>, tenant: TenantId) -> Result<Counts> {
    let row = tx.query_one(TOTALS, &[&tenant]).await?;
    let count = |column| get::<i64>(&row, column).map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Counts {
        rooms: count("rooms")?,
        members: count("members")?,
        messages: count("messages")?,
        last_seen: count("last_seen")?,
    })
}

async fn write(
    tx: &Transaction<'_>,
    tenant: &Tenant,
    now: Timestamp,
    totals: Counts,
    writer: &mut Writer,
) -> Result<()> {
    let id: &(dyn tokio_postgres::types::ToSql + Sync) = &tenant.tenant_id;
    writer.line(&header(tenant, now)).await?;
    let mut counts = Counts::default();
    let mut rooms = Cursor::open(tx, ROOMS_OF, &[id], ROWS).await?;
    let mut members = Cursor::open(tx, MEMBERS_OF, &[id], ROWS).await?;
    let mut messages = Cursor::open(tx, MESSAGES_OF, &[id], MESSAGES).await?;
    while let Some(row) = rooms.next(tx).await? {
        writer.line(&Line::Room(room(&row)?)).await?;
        counts.rooms += 1;
        let room_id: RoomId = at(&row, 0, "room_id")?;
        while let Some(row) = members.next_of(tx, room_id).await? {
            writer.line(&Line::Member(member(&row)?)).await?;
            counts.members += 1;
        }
        let first_seq: i64 = at(&row, 5, "first_seq")?;
        while let Some(row) = messages.next_of(tx, room_id).await? {
            if at::<i64>(&row, 1, "seq")? < first_seq {
                // Too old, and about to be erased.
                continue;
            }
            writer.line(&Line::Message(message(&row)?)).await?;
            counts.messages += 1;
        }
    }
    let mut seen = Cursor::open(tx, LAST_SEEN_OF, &[id], ROWS).await?;
    while let Some(row) = seen.next(tx).await? {
        writer.line(&Line::LastSeen(last_seen(&row)?)).await?;
        counts.last_seen += 1;
    }
    // What the rooms say of themselves is what an import goes by.
    if counts != totals {
        return Err(Error::Corrupt { column: "last_seq", source: format!("{counts:?} are not {totals:?}").into() });
    }
    writer.end(counts).await
}

fn header(tenant: &Tenant, now: Timestamp) -> Line<'static> {
    let described = TenantLine {
        tenant_id: tenant.tenant_id,
        name: tenant.name.as_str().to_owned(),
        status: tenant.status,
        config: tenant.config.to_stored(),
        created_at: Moment(tenant.created_at),
    };
    Line::Export(HeaderLine { format: FORMAT.into(), version: VERSION, exported_at: Moment(now), tenant: described })
}

fn room(row: &Row) -> Result<RoomLine<'_>> {
    let text = |place, column| at::<Option<&str>>(row, place, column).map(|text| text.map(Into::into));
    let (metadata, metadata_text) = own("metadata", at(row, 4, "metadata")?)?;
    Ok(RoomLine {
        room_id: at(row, 0, "room_id")?,
        room_type: crate::row::word(row, "type", chatapi_domain::RoomType::from_word)?,
        unique_key: text(2, "unique_key")?,
        name: text(3, "name")?,
        metadata,
        metadata_text,
        first_seq: at(row, 5, "first_seq")?,
        last_seq: at(row, 6, "last_seq")?,
        last_change: at(row, 7, "last_change")?,
        member_count: at(row, 8, "member_count")?,
        created_by: at(row, 9, "created_by")?,
        created_at: Moment(at(row, 10, "created_at")?),
        updated_at: Moment(at(row, 11, "updated_at")?),
        active_at: Moment(at(row, 12, "active_at")?),
    })
}

fn member(row: &Row) -> Result<MemberLine> {
    Ok(MemberLine {
        room_id: at(row, 0, "room_id")?,
        user_id: at(row, 1, "user_id")?,
        role: crate::row::word(row, "role", chatapi_domain::Role::from_word)?,
        joined_at: Moment(at(row, 3, "joined_at")?),
        delivered_seq: at(row, 4, "delivered_seq")?,
        read_seq: at(row, 5, "read_seq")?,
        receipt_at: Moment(at(row, 6, "receipt_at")?),
    })
}

fn message(row: &Row) -> Result<MessageLine<'_>> {
    let (meta, meta_text) = own("meta", at(row, 5, "meta")?)?;
    Ok(MessageLine {
        room_id: at(row, 0, "room_id")?,
        seq: at(row, 1, "seq")?,
        message_id: at(row, 2, "message_id")?,
        sender_id: at(row, 3, "sender_id")?,
        content: at::<&str>(row, 4, "content")?.into(),
        meta,
        meta_text,
        client_message_id: at::<Option<&str>>(row, 6, "client_message_id")?.map(Into::into),
        reply_to: at(row, 7, "reply_to")?,
        created_at: Moment(at(row, 8, "created_at")?),
        edited_at: at::<Option<_>>(row, 9, "edited_at")?.map(Moment),
        deleted_at: at::<Option<_>>(row, 10, "deleted_at")?.map(Moment),
        change: at(row, 11, "change")?,
    })
}

fn last_seen(row: &Row) -> Result<LastSeenLine> {
    Ok(LastSeenLine { user_id: at(row, 0, "user_id")?, seen_at: Moment(at(row, 1, "seen_at")?) })
}

/// Gathers lines into chunks and hands them over.
struct Writer {
    sender: mpsc::Sender<Result<Bytes>>,
    patience: Duration,
    buffer: Vec<u8>,
    digest: Sha256,
}

impl Writer {
    fn new(sender: mpsc::Sender<Result<Bytes>>, patience: Duration) -> Self {
        Self { sender, patience, buffer: Vec::with_capacity(CHUNK), digest: Sha256::new() }
    }

    async fn line(&mut self, line: &Line<'_>) -> Result<()> {
        self.push(line)?;
        if self.buffer.len() >= CHUNK {
            self.digest.update(&self.buffer);
            self.hand_over().await?;
        }
        Ok(())
    }

    /// The last line.
    async fn end(&mut self, counts: Counts) -> Result<()> {
        self.digest.update(&self.buffer);
        let sha256 = hex(&mut self.digest).into();
        self.push(&Line::End(EndLine { counts, sha256 }))?;
        self.hand_over().await?;
        // An empty chunk.
        self.hand_over().await
    }

    fn push(&mut self, line: &Line<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<()> {
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK + CHUNK / 8)));
        match timeout(self.patience, self.sender.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::unavailable("who read the export has gone")),
            Err(_) => Err(Error::unavailable("who reads the export has taken nothing for too long")),
        }
    }
}
