//! Binds ids, times and checked text directly as SQL parameters and columns.
//!
//! Here and not in `storage` because of the orphan rule.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use crate::{ClientMessageId, EventId, KeyId, MessageId, Name, NodeId, RoomId, TenantId, Timestamp, UserId};

type Failure = Box<dyn Error + Sync + Send>;

macro_rules! as_uuid {
    ($($id:ty),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
                self.as_uuid().to_sql(ty, out)
            }
            accepts!(UUID);
            to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $id {
            fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
                Uuid::from_sql(ty, raw).map(Self::from_uuid)
            }
            accepts!(UUID);
        }
    )*};
}
as_uuid!(TenantId, RoomId, MessageId, EventId, NodeId);

macro_rules! as_text {
    ($($text:ty => $parse:expr),* $(,)?) => {$(
        impl ToSql for $text {
            fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
                self.as_str().to_sql(ty, out)
            }
            accepts!(TEXT);
            to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $text {
            fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
                let text = <&str>::from_sql(ty, raw)?;
                $parse(text).map_err(Into::into)
            }
            accepts!(TEXT);
        }
    )*};
}
as_text! {
    UserId => |text: &str| UserId::parse("user_id", text),
    Name => |text: &str| Name::parse("name", text),
    ClientMessageId => |text: &str| ClientMessageId::parse(text),
    KeyId => KeyId::parse,
}

/// Microseconds from the Unix epoch to the one PostgreSQL counts from, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_i64(self.as_micros() - POSTGRES_EPOCH);
        Ok(IsNull::No)
    }
    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        Ok(Self::from_micros(i64::from_be_bytes(raw.try_into()?) + POSTGRES_EPOCH))
    }
    accepts!(TIMESTAMPTZ);
}
