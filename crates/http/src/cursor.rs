//! Opaque cursors: where a page ended, for the next one.
//!
//! A cursor holds the kind of list it belongs to and a checksum, so that one of another list, or
//! one made up, is refused instead of misread.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chatapi_domain::{EventId, KeyId, RoomId, TenantId, Timestamp, UserId};
use chatapi_storage::RoomCursor;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A place in a list that a cursor can name.
pub(crate) trait Cursor: Sized {
    /// One letter for each kind of list.
    const KIND: u8;

    fn to_bytes(&self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Option<Self>;

    fn encode(&self) -> String {
        let mut bytes = vec![Self::KIND];
        bytes.extend(self.to_bytes());
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let (kind, place) = body.split_first()?;
        (checksum(body) == *sum && *kind == Self::KIND).then(|| Self::from_bytes(place)).flatten()
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

impl Cursor for TenantId {
    const KIND: u8 = b't';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self::from_uuid)
    }
}

impl Cursor for RoomCursor {
    const KIND: u8 = b'r';

    fn to_bytes(&self) -> Vec<u8> {
        [&self.active_at.as_micros().to_be_bytes()[..], self.room_id.as_uuid().as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (moment, room) = bytes.split_first_chunk::<8>()?;
        let room_id = RoomId::from_uuid(Uuid::from_slice(room).ok()?);
        Some(Self { active_at: Timestamp::from_micros(i64::from_be_bytes(*moment)), room_id })
    }
}

/// The last entry of a page of the audit log.
pub(crate) struct EntryCursor(pub(crate) Uuid);

impl Cursor for EntryCursor {
    const KIND: u8 = b'e';

    fn to_bytes(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }
}

impl Cursor for EventId {
    const KIND: u8 = b'd';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self::from_uuid)
    }
}

impl Cursor for KeyId {
    const KIND: u8 = b'k';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(bytes).ok()?).ok()
    }
}

impl Cursor for UserId {
    const KIND: u8 = b'u';

    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse("cursor", std::str::from_utf8(bytes).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_only_in_its_own_list() {
        let room_id = RoomId::from_uuid(Uuid::from_u128(7));
        let place = RoomCursor { active_at: Timestamp::from_micros(5), room_id };
        let text = place.encode();

        assert_eq!(RoomCursor::decode(&text), Some(place));
        assert_eq!(TenantId::decode(&text), None);
        assert_eq!(UserId::decode(&text), None);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            assert!(RoomCursor::decode(&forged).is_none_or(|found| found == place), "{forged}");
        }
    }
}
