//! The lines of a small export, and what becomes of it when any of its bytes is another one.

use sha2::{Digest, Sha256};

use super::check::{Check, hex};
use super::line::{Counts, Line};
use crate::Result;

const LINES: [&str; 10] = [
    r#"{"export":{"format":"chatapi-tenant","version":1,"exported_at":"2026-01-31T12:00:00.000001Z","tenant":{"tenant_id":"tenant_01m85d2282fwpbhy8gt3navx71","name":"Übung","status":"active","config":{"presence":false},"created_at":"2026-01-31T12:00:00.000000Z"}}}"#,
    r#"{"room":{"room_id":"room_01m85d22b8egmve8x781kkwrfj","type":"dm","unique_key":"dm:al%3Aice:bob","first_seq":3,"last_seq":4,"last_change":2,"member_count":2,"created_at":"2026-01-31T12:00:00.000000Z","updated_at":"2026-01-31T12:00:00.000000Z","active_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"member":{"room_id":"room_01m85d22b8egmve8x781kkwrfj","user_id":"al:ice","role":"member","joined_at":"2026-01-31T12:00:00.000000Z","delivered_seq":4,"read_seq":4,"receipt_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"member":{"room_id":"room_01m85d22b8egmve8x781kkwrfj","user_id":"bob","role":"member","joined_at":"2026-01-31T12:00:00.000000Z","delivered_seq":1,"read_seq":0,"receipt_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"message":{"room_id":"room_01m85d22b8egmve8x781kkwrfj","seq":3,"message_id":"msg_01m85d22b8egmve8x781kkwrf1","sender_id":"al:ice","content":"a\nb \"ö\"","meta":{"a": [1.0]},"client_message_id":"c","created_at":"2026-01-31T12:00:00.000000Z","edited_at":"2026-01-31T12:00:00.000000Z","change":1}}"#,
    r#"{"message":{"room_id":"room_01m85d22b8egmve8x781kkwrfj","seq":4,"message_id":"msg_01m85d22b8egmve8x781kkwrf2","sender_id":"bob","content":"","reply_to":"msg_01m85d22b8egmve8x781kkwrf1","created_at":"2026-01-31T12:00:00.000000Z","deleted_at":"2026-01-31T12:00:00.000000Z","change":2}}"#,
    r#"{"room":{"room_id":"room_01m85d22b8egmve8x781kkwrfk","type":"channel","name":"c","metadata_text":"[\n1]","first_seq":1,"last_seq":0,"last_change":0,"member_count":0,"created_by":"bob","created_at":"2026-01-31T12:00:00.000000Z","updated_at":"2026-01-31T12:00:00.000000Z","active_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"last_seen":{"user_id":"al:ice","seen_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"last_seen":{"user_id":"bob","seen_at":"2026-01-31T12:00:00.000000Z"}}"#,
    r#"{"end":{"counts":{"rooms":2,"members":2,"messages":2,"last_seen":2},"sha256":"?"}}"#,
];

/// The whole file.
fn file() -> Vec<u8> {
    let (end, before) = LINES.split_last().expect("lines");
    let mut file: String = before.iter().flat_map(|line| [*line, "\n"]).collect();
    let sum = hex(&mut Sha256::new_with_prefix(&file));
    file.push_str(&end.replace('?', &sum));
    file.push('\n');
    file.into_bytes()
}

/// Reads a file as an import does, without a database; the line and the reason if it is refused.
fn read(file: &[u8]) -> Result<Counts, (usize, String)> {
    let mut lines = file.split_inclusive(|byte| *byte == b'\n').enumerate();
    let (_, first) = lines.next().unwrap_or_default();
    let (mut check, _) = Check::begin(first).map_err(|wrong| (1, wrong.to_string()))?;
    let mut at_end = false;
    for (before, line) in lines {
        let refused = |reason: String| (before + 1, reason);
        if at_end {
            return Err(refused("goes on".to_owned()));
        }
        match check.next(line).map_err(|wrong| refused(wrong.to_string()))? {
            Line::Room(room) => _ = room.checked_metadata().map_err(|wrong| refused(wrong.to_string()))?,
            Line::Message(message) => _ = message.checked_meta().map_err(|wrong| refused(wrong.to_string()))?,
            Line::End(_) => at_end = true,
            Line::Export(_) | Line::Member(_) | Line::LastSeen(_) => {}
        }
    }
    if at_end { Ok(check.counts()) } else { Err((0, "ends".to_owned())) }
}

#[test]
fn each_line_reads_and_is_written_again_as_it_was() {
    assert_eq!(read(&file()), Ok(Counts { rooms: 2, members: 2, messages: 2, last_seen: 2 }));
    for line in LINES {
        let parsed: Line<'_> = serde_json::from_str(line).expect(line);
        assert_eq!(serde_json::to_string(&parsed).expect("written"), line);
    }
}

#[test]
fn a_file_with_any_byte_changed_removed_added_or_cut_off_is_refused() {
    let whole = file();
    let mut first_bad_line = 1;
    for at in 0..whole.len() {
        let (before, rest) = whole.split_at(at);
        let changed = |byte: u8| [before, &[byte], &rest[1..]].concat();
        let added = |byte: u8| [before, &[byte], rest].concat();
        let mut damaged = vec![changed(rest[0] ^ 1), [before, &rest[1..]].concat(), added(b' ')];
        damaged.push(added(rest[0]));
        if rest[0] != b'\n' {
            damaged.push(changed(b'\n'));
        }
        damaged.push(before.to_vec());
        for file in damaged {
            let found = read(&file).expect_err(&String::from_utf8_lossy(&file));
            assert!(found.0 == 0 || found.0 >= first_bad_line, "byte {at}: {found:?}");
        }
        first_bad_line += usize::from(rest[0] == b'\n');
    }
    assert!(read(&[&whole[..], b"\n"].concat()).is_err() && read(&[&whole[..], b" "].concat()).is_err());
    assert!(read(&[&whole[..], &whole[..]].concat()).is_err());
}
