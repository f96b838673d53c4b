//! Ids made by the server: a prefix and a sortable unique part.
//!
//! The unique part is a `UUIDv7`, 16 bytes in the database, outside 26 lowercase letters of
//! Crockford's base 32 (the form of a ULID), which sort as the bytes do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{NoContext, Uuid};

use crate::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ENCODED: usize = 26;

/// An id from outside that no server of ours made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct InvalidId;

fn encode(id: Uuid) -> [u8; ENCODED] {
    let bits = id.as_u128();
    let mut out = [0; ENCODED];
    for (place, slot) in out.iter_mut().enumerate() {
        let shift = 5 * (ENCODED - 1 - place);
        *slot = ALPHABET[((bits >> shift) & 31) as usize];
    }
    out
}

fn decode(text: &[u8]) -> Result<Uuid, InvalidId> {
    // 26 letters hold 130 bits; the first may carry only three of its five.
    if text.len() != ENCODED || text[0] > b'7' {
        return Err(InvalidId);
    }
    let mut bits = 0_u128;
    for letter in text {
        let digit = ALPHABET.iter().position(|known| known == letter).ok_or(InvalidId)?;
        bits = (bits << 5) | digit as u128;
    }
    Ok(Uuid::from_u128(bits))
}

macro_rules! id {
    ($name:ident, $prefix:literal, $what:literal) => {
        #[doc = concat!("Names ", $what, ": `", $prefix, "` and 26 lowercase letters, sortable by time.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id for something that begins `now`: the milliseconds, their fraction, and 62 random bits
            /// (RFC 9562, 6.2, method 3). So what was made one after the other sorts like that.
            #[must_use]
            pub fn new(now: Timestamp) -> Self {
                let micros = u64::try_from(now.as_micros()).unwrap_or(0);
                let nanos = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1000;
                let id = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, micros / 1_000_000, nanos)).as_u128();
                let fraction = u128::from(micros % 1000 * 4096 / 1000);
                Self(Uuid::from_u128(id & !(0xfff << 64) | fraction << 64))
            }

            /// The smallest id that can be made at this moment.
            #[must_use]
            pub fn first_at(moment: Timestamp) -> Self {
                let millis = u128::try_from(moment.as_micros() / 1000).unwrap_or(0);
                Self(Uuid::from_u128(millis << 80))
            }

            /// When it was made, in whole milliseconds: what it begins with.
            #[must_use]
            pub fn made_at(&self) -> Timestamp {
                let millis = self.0.as_u128() >> 80;
                Timestamp::from_micros(i64::try_from(millis).unwrap_or(0) * 1000)
            }

            /// The id over these 16 bytes.
            #[must_use]
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The 16 bytes, as the database keeps them.
            #[must_use]
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(std::str::from_utf8(&encode(self.0)).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                decode(text.strip_prefix($prefix).ok_or(InvalidId)?.as_bytes()).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(TenantId, "tenant_", "a tenant");
id!(RoomId, "room_", "a room");
id!(MessageId, "msg_", "a message");
id!(EventId, "event_", "something that a tenant's endpoint is told");
id!(RequestId, "req_", "a request");
id!(ConnectionId, "conn_", "a WebSocket connection");
id!(NodeId, "node_", "a running server");

/// Names a tenant's API key without being a secret: `key_` and the key's first 12 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Characters of a key that are its id.
    pub const LENGTH: usize = 12;

    /// The id made of these 12 characters of `[0-9A-Za-z]`.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] for anything else.
    pub fn parse(characters: &str) -> Result<Self, InvalidId> {
        let right = characters.len() == Self::LENGTH && characters.bytes().all(|byte| byte.is_ascii_alphanumeric());
        right.then(|| Self(characters.to_owned())).ok_or(InvalidId)
    }

    /// The 12 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text.strip_prefix("key_").ok_or(InvalidId)?)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.0)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_it_was_written(bits: u128) {
            let id = RoomId::from_uuid(Uuid::from_u128(bits));

            prop_assert_eq!(id.to_string().parse::<RoomId>(), Ok(id));
        }

        #[test]
        fn ids_sort_as_text_as_they_do_as_bytes(a: u128, b: u128) {
            let (a, b) = (RoomId::from_uuid(Uuid::from_u128(a)), RoomId::from_uuid(Uuid::from_u128(b)));

            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn ids_of_different_moments_sort_as_those(micros in 0_i64..1 << 47, later in 1_i64..10_000) {
            let (at, after) = (Timestamp::from_micros(micros), Timestamp::from_micros(micros + later));
            prop_assert!(MessageId::new(at) < MessageId::new(after));
            prop_assert_eq!(MessageId::new(at).made_at(), Timestamp::from_micros(micros / 1000 * 1000));
        }

        #[test]
        fn a_text_that_parses_is_the_one_text_of_its_id(text in "room_[0-9a-z]{26}") {
            if let Ok(id) = text.parse::<RoomId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn what_no_server_made_does_not_parse() {
        let good = RoomId::new(Timestamp::from_micros(1_769_860_800_000_000)).to_string();
        let upper = good.to_uppercase();
        let cut = &good[..good.len() - 1];

        for bad in ["", "room_", "room_abc123", "msg_01j00000000000000000000000", &upper, cut] {
            assert_eq!(bad.parse::<RoomId>(), Err(InvalidId), "{bad}");
        }
        assert!(good.starts_with("room_01k"), "{good}");
    }
}
