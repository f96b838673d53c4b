//! Rows of the database as values of the domain.

use chatapi_domain::{Json, Message, Role, Room, RoomType};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::{Error, Result};

/// The value of a column; what the schema should have prevented is [`Error::Corrupt`].
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &'static str) -> Result<T> {
    row.try_get(column).map_err(|error| Error::Corrupt { column, source: error.into() })
}

/// A word of ours that must be one of a few.
pub(crate) fn word<T>(row: &Row, column: &'static str, parse: fn(&str) -> Option<T>) -> Result<T> {
    let text: &str = get(row, column)?;
    parse(text).ok_or_else(|| Error::Corrupt { column, source: format!("unknown word {text}").into() })
}

/// The role in a column that is null for those who are no members.
pub(crate) fn role(row: &Row) -> Result<Option<Role>> {
    match get::<Option<&str>>(row, "role")? {
        Some(_) => word(row, "role", Role::from_word).map(Some),
        None => Ok(None),
    }
}

fn json(row: &Row, column: &'static str) -> Result<Option<Json>> {
    let text: Option<String> = get(row, column)?;
    let json = text.map(Json::from_stored).transpose();
    json.map_err(|error| Error::Corrupt { column, source: error.into() })
}

/// The columns that [`room`] reads, of the table or subquery `r`.
macro_rules! room_columns {
    () => {
        "r.room_id, r.type, r.unique_key, r.name, r.metadata::text as metadata, r.first_seq, r.last_seq, \
         r.last_change, r.member_count, r.created_by, r.created_at, r.updated_at, r.active_at"
    };
}
pub(crate) use room_columns;

pub(crate) fn room(row: &Row) -> Result<Room> {
    Ok(Room {
        room_id: get(row, "room_id")?,
        room_type: word(row, "type", RoomType::from_word)?,
        unique_key: get(row, "unique_key")?,
        name: get(row, "name")?,
        metadata: json(row, "metadata")?,
        first_seq: get(row, "first_seq")?,
        last_seq: get(row, "last_seq")?,
        last_change: get(row, "last_change")?,
        member_count: get(row, "member_count")?,
        created_by: get(row, "created_by")?,
        created_at: get(row, "created_at")?,
        updated_at: get(row, "updated_at")?,
    })
}

/// The columns that [`message`] reads, of the table `m`; named so that a room's columns may stand
/// beside them.
macro_rules! message_columns {
    () => {
        "m.message_id, m.room_id as message_room, m.sender_id, m.seq, m.content, m.meta::text as meta, \
         m.client_message_id, m.created_at as sent_at, m.edited_at, m.deleted_at, m.reply_to"
    };
}
pub(crate) use message_columns;

pub(crate) fn message(row: &Row) -> Result<Message> {
    Ok(Message {
        message_id: get(row, "message_id")?,
        room_id: get(row, "message_room")?,
        sender_id: get(row, "sender_id")?,
        seq: get(row, "seq")?,
        content: get(row, "content")?,
        meta: json(row, "meta")?,
        client_message_id: get(row, "client_message_id")?,
        created_at: get(row, "sent_at")?,
        edited_at: get(row, "edited_at")?,
        deleted_at: get(row, "deleted_at")?,
        reply_to: get(row, "reply_to")?,
    })
}

/// The message in a row of an outer join, if there is one.
pub(crate) fn optional_message(row: &Row) -> Result<Option<Message>> {
    if get::<Option<i64>>(row, "seq")?.is_some() { message(row).map(Some) } else { Ok(None) }
}

/// Whether the actor may know of the room `r`, joined with the actor's membership `own`; `$3` is
/// the user, null for the backend. The same rule as [`Standing::see`], for statements that must
/// do no work, and take no time, for a room that is not to be seen.
///
/// [`Standing::see`]: chatapi_domain::access::Standing::see
macro_rules! visible_room {
    () => {
        "rooms r left join room_members own \
           on own.tenant_id = r.tenant_id and own.room_id = r.room_id and own.user_id = $3 \
         where r.tenant_id = $1 and r.room_id = $2 \
           and ($3::text is null or own.user_id is not null or r.type = 'channel')"
    };
}
pub(crate) use visible_room;
