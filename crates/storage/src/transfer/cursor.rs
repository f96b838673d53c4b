//! Reads the rows of one statement piece by piece.

use std::vec;

use chatapi_domain::RoomId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Portal, Row, Transaction};

use crate::Result;
use crate::row::at;

/// A statement that is run only as far as its rows are read. Several can be open in a transaction.
pub(super) struct Cursor {
    portal: Portal,
    /// Rows fetched at once.
    pace: i32,
    rows: vec::IntoIter<Row>,
    is_through: bool,
    /// A row that was read and not used.
    ahead: Option<Row>,
}

impl Cursor {
    pub(super) async fn open(
        tx: &Transaction<'_>,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
        pace: i32,
    ) -> Result<Self> {
        let portal = tx.bind(sql, params).await?;
        Ok(Self { portal, pace, rows: Vec::new().into_iter(), is_through: false, ahead: None })
    }

    /// The next row.
    pub(super) async fn next(&mut self, tx: &Transaction<'_>) -> Result<Option<Row>> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        if self.rows.len() == 0 && !self.is_through {
            let rows = tx.query_portal(&self.portal, self.pace).await?;
            self.is_through = rows.len() < usize::try_from(self.pace).unwrap_or(0);
            self.rows = rows.into_iter();
        }
        Ok(self.rows.next())
    }

    /// The next row, if it belongs to this room. Rows are in the order of the rooms in their first
    /// column; those of rooms that were passed over belong to none, and are passed over too.
    pub(super) async fn next_of(&mut self, tx: &Transaction<'_>, room: RoomId) -> Result<Option<Row>> {
        while let Some(row) = self.next(tx).await? {
            let of: RoomId = at(&row, 0, "room_id")?;
            if of == room {
                return Ok(Some(row));
            }
            if of > room {
                self.ahead = Some(row);
                return Ok(None);
            }
        }
        Ok(None)
    }
}
