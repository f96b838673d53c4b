//! Rows on their way into a table, by `COPY … FROM STDIN BINARY`.

use bytes::{BufMut, BytesMut};
use chatapi_domain::Invalid;
use futures_util::SinkExt;
use tokio_postgres::error::DbError;
use tokio_postgres::types::{IsNull, ToSql, Type};
use tokio_postgres::{CopyInSink, Transaction};

use crate::{Error, Result};

/// What every binary copy begins with: the signature, no flags, no extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Rows that wait for being copied into one table.
pub(super) struct Copy {
    sql: &'static str,
    types: &'static [Type],
    buffer: BytesMut,
    /// The line of each row.
    lines: Vec<u64>,
}

impl Copy {
    pub(super) fn new(sql: &'static str, types: &'static [Type]) -> Self {
        Self { sql, types, buffer: BytesMut::from(HEAD), lines: Vec::new() }
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Adds the row of a line.
    pub(super) fn push(&mut self, line: u64, values: &[&(dyn ToSql + Sync)]) -> Result<()> {
        debug_assert_eq!(values.len(), self.types.len());
        self.buffer.put_i16(i16::try_from(values.len()).unwrap_or(0));
        for (value, ty) in values.iter().zip(self.types) {
            let at = self.buffer.len();
            self.buffer.put_i32(-1);
            let written = value.to_sql_checked(ty, &mut self.buffer).map_err(Error::Database)?;
            if let IsNull::No = written {
                let length = i32::try_from(self.buffer.len() - at - 4).unwrap_or(0);
                self.buffer[at..at + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
        self.lines.push(line);
        Ok(())
    }

    /// Copies what waits.
    pub(super) async fn flush(&mut self, tx: &Transaction<'_>) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.buffer.put_i16(-1);
        let rows = std::mem::replace(&mut self.buffer, BytesMut::from(HEAD)).freeze();
        let copied = async {
            let sink: CopyInSink<bytes::Bytes> = tx.copy_in(self.sql).await?;
            tokio::pin!(sink);
            sink.send(rows).await?;
            sink.finish().await
        };
        let copied = copied.await.map_err(|error| self.explain(error));
        self.lines.clear();
        copied.map(|_| ())
    }

    /// The line and the field of a row that the database does not take.
    fn explain(&self, error: tokio_postgres::Error) -> Error {
        let is_of_the_row = |found: &&DbError| matches!(found.code().code().get(..2), Some("22" | "23"));
        let Some(found) = error.as_db_error().filter(is_of_the_row) else { return error.into() };
        // "COPY messages, line 7": the row, counted from 1.
        let place = found.where_().and_then(|place| place.split(", line ").nth(1)).unwrap_or_default();
        let digits: String = place.chars().take_while(char::is_ascii_digit).collect();
        let row = digits.parse::<usize>().ok().and_then(|row| row.checked_sub(1));
        let Some(line) = row.and_then(|row| self.lines.get(row)) else { return error.into() };
        let reason = match found.constraint() {
            Some("messages_by_id") => "message.message_id: is there twice",
            Some("messages_by_client_id") => "message.client_message_id: is there twice of this sender",
            Some("messages_changed") => "message.change: is there twice in the room",
            Some("rooms_by_unique_key") => "room.unique_key: is there twice",
            _ => "holds a value that cannot be kept",
        };
        Invalid::new(format!("line {line}"), reason).into()
    }
}
