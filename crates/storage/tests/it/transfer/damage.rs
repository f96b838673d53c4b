//! What is not a whole export to the letter is refused, and leaves nothing.

use bytes::Bytes;
use chatapi_domain::TenantId;
use chatapi_storage::{Counts, Error};
use chatapi_testkit::Database;
use sha2::{Digest, Sha256};

use super::{assert_only, export, full_tenant, import, refused, unsealed};
use crate::chat::now;

/// A file with its last line as it must be for what stands before.
fn sealed(lines: &[String], counts: Counts) -> Vec<u8> {
    let before: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    let sum = format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(&before)));
    let end =
        format!("{{\"end\":{{\"counts\":{},\"sha256\":\"{sum}\"}}}}\n", serde_json::to_string(&counts).expect("JSON"));
    (before + &end).into_bytes()
}

#[tokio::test]
async fn a_file_with_lines_changed_cut_doubled_removed_or_swapped_is_refused_and_leaves_nothing() {
    let database = Database::new().await;
    let (store, sql) = (database.store(), database.client().await);
    let original = full_tenant(&store, &sql).await;
    let file = export(&store, original).await;
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();

    for at in 0..lines.len() {
        let (before, line, after) = (lines[..at].concat(), lines[at], lines[at + 1..].concat());
        let half = line.len() / 2;
        let mut changed = line.to_vec();
        changed[half] ^= 1;
        let mut damaged = vec![
            ("changed", [&before, &changed, &after[..]].concat()),
            ("no UTF-8", [&before, &line[..half], b"\xff", &line[half..], &after[..]].concat()),
            ("cut out", [&before, &line[..half], &after[..]].concat()),
            ("the end", [&before, &line[..half]].concat()),
            ("doubled", [&before, line, line, &after[..]].concat()),
            ("removed", [&before[..], &after].concat()),
            ("last line missing", before.clone()),
        ];
        if let Some(next) = lines.get(at + 1) {
            damaged.push(("swapped", [&before, *next, line, &lines[at + 2..].concat()].concat()));
        }
        for (how, file) in damaged {
            let result = import(&store, &file, Some(TenantId::new(now()))).await;
            let reason = refused(&result);
            let number: usize = reason["line ".len()..].split(':').next().expect("a number").parse().expect("a number");
            // What only the sum shows is seen at the end.
            assert!(number > at && number <= lines.len() + 1, "line {}, {how}: {reason}", at + 1);
        }
    }

    let long = "x".repeat(3 << 20);
    for junk in [&[0x1f, 0x8b, 8, 0, 0, 0][..], b"", b"\n", b"{}\n", b"PK\x03\x04", &[0xff; 3000], long.as_bytes()] {
        let reason = refused(&import(&store, junk, Some(TenantId::new(now()))).await);
        assert!(reason.starts_with("line 1: "), "{reason}");
    }
    assert_only(&sql, &[original]).await;
    store.close().await;
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused_by_line_and_field_though_the_sum_is_right() {
    let database = Database::new().await;
    let (store, sql) = (database.store(), database.client().await);
    let original = full_tenant(&store, &sql).await;
    let (lines, counts) = unsealed(&export(&store, original).await);
    let find = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text}"));
    let (dm, group) = (find("\"type\":\"dm\""), find("\"type\":\"group\""));
    let (first, second) = (group + 4, group + 5);
    // What is to be found in which line, what stands there instead, and what is said to it.
    let cases = [
        (0, "\"version\":1", "\"version\":2", "export.version: 2 is not known: this server reads 1"),
        (0, "chatapi-tenant", "other", "export: expected the first line of an export of a tenant"),
        (0, "\"rate_limit\":7", "\"rate_limit\":0", "export.tenant.config.rate_limit: expected a whole number"),
        (
            0,
            "\"status\":\"active\"",
            "\"status\":\"deleting\"",
            "export.tenant.status: expected 'active' or 'suspended'",
        ),
        (dm, "\"last_seq\":1", "\"last_seq\":2", "message.seq: expected 2 of room_"),
        (dm, "\"last_seq\":1", "\"last_seq\":0", "member.read_seq: expected 0 to 0, the room's last_seq"),
        (dm, "\"first_seq\":1", "\"first_seq\":0", "room.first_seq: expected at least 1"),
        (dm, "\"member_count\":2", "\"member_count\":3", "member: expected 3 members"),
        (dm, "\"member_count\":2", "\"member_count\":1", "member: room_"),
        (dm, "dm:100%25:al%3Aice", "dm:100%:al:ice", "room.unique_key: does not fit the members"),
        (dm, "\"type\":\"dm\"", "\"type\":\"chat\"", "room.type: expected 'dm', 'group' or 'channel'"),
        (dm, "\"type\":\"dm\"", "\"type\":\"group\"", "room.unique_key: expected none: only a dm has one"),
        (dm, "\"created_at\"", "\"colour\":1,\"created_at\"", "room.colour: unknown field `colour`"),
        (dm, ",\"last_change\":0", "", "room: missing field `last_change`"),
        (dm + 1, "\"role\":\"member\"", "\"role\":\"owner\"", "member.role: unknown variant `owner`"),
        (dm + 1, "\"room_id\":\"room_0", "\"room_id\":\"room_1", "member.room_id: expected room_"),
        (dm + 1, "\"user_id\":\"100%\"", "\"user_id\":\"z\"", "member.user_id: expected one after z"),
        (dm + 1, "\"user_id\":\"100%\"", "\"user_id\":\"a b\"", "member.user_id: "),
        (dm + 1, "\"delivered_seq\":1", "\"delivered_seq\":0", "member.delivered_seq: expected 1 to 1"),
        (group, "metadata_text\":\"", "metadata_text\":\"!", "room.metadata_text: expected the text of JSON"),
        (first, "\"seq\":2", "\"seq\":3", "message.seq: expected 2 in room_"),
        (first, "\"seq\":2", "\"seq\":\"2\"", "message.seq: invalid type: string \"2\", expected i64"),
        (first, "\"message_id\":\"msg_0", "\"message_id\":\"msg_x", "message.message_id: not an id of this kind"),
        (first, "Grüße 🎉", "", "message.content: may not be empty"),
        (first, "Grüße 🎉", "\\u0000", "message.content: may not contain the character U+0000"),
        (first, "\"meta\":\"\"", "\"meta\":\"\\u0000\"", "message.meta: may not contain the character U+0000"),
        (
            first,
            "\"meta\":\"\"",
            "\"meta\":1,\"meta_text\":\"1\"",
            "message.meta: is there twice, as JSON and as a text",
        ),
        (first, "\"meta\":\"\"", "\"meta_text\":\" 1\"", "message.meta_text: expected the text of JSON"),
        (first, "c-1", "c 1", "message.client_message_id: expected 1 to 128 visible ASCII characters"),
        (
            first,
            "\"client_message_id\"",
            "\"deleted_at\":\"2026-01-31T12:00:00.000000Z\",\"client_message_id\"",
            "message.content: expected none",
        ),
        (first, "Z\"}}", "+00:00\"}}", "message.created_at: expected a time like"),
        (first, "Z\"}}", "Z\",\"change\":3}}", "message.change: expected 1 to 2, the room's last_change"),
        // Only the database sees these.
        (first, "Z\"}}", "Z\",\"change\":1}}", "message.change: is there twice in the room"),
        (second, "c-2", "c-1", "message.client_message_id: is there twice of this sender"),
    ];
    for (at, found, instead, expected) in cases {
        assert!(lines[at].contains(found), "{found} is not in {}", lines[at]);
        let mut forged = lines.clone();
        forged[at] = lines[at].replacen(found, instead, 1);
        let reason = refused(&import(&store, &sealed(&forged, counts), Some(TenantId::new(now()))).await);
        let (line, reason) = reason.split_once(": ").expect("a line");
        assert!(reason.starts_with(expected), "{reason}, not {expected}");
        let number: usize = line["line ".len()..].parse().expect("a number");
        assert!(number > at && number <= lines.len() + 1, "{number} is not after {at}");
    }
    // An id that is there twice, in two rooms: line and field all the same.
    let id_of = |line: &str| line.split("msg_").nth(1).map(|rest| format!("msg_{}", &rest[..26])).expect("an id");
    let (other, mut forged) = (id_of(&lines[dm + 3]), lines.clone());
    forged[second] = lines[second].replacen(&id_of(&lines[second]), &other, 1);
    let reason = refused(&import(&store, &sealed(&forged, counts), Some(TenantId::new(now()))).await);
    assert_eq!(reason, format!("line {}: message.message_id: is there twice", second.max(dm + 3) + 1));
    let nil = import(&store, &sealed(&lines, counts), Some(TenantId::from_uuid(uuid::Uuid::nil()))).await;
    assert!(matches!(&nil, Err(Error::Invalid(wrong)) if wrong.field == "tenant_id"), "{nil:?}");
    let few = Counts { rooms: 2, ..counts };
    let reason = refused(&import(&store, &sealed(&lines, few), Some(TenantId::new(now()))).await);
    let said = "end.counts: there are 3 rooms, 6 members, 5 messages, 2 last seen before it";
    assert_eq!(reason, format!("line {}: {said}", lines.len() + 1));
    let mut more = sealed(&lines, counts);
    more.extend(b"\n");
    let reason = refused(&import(&store, &more, Some(TenantId::new(now()))).await);
    assert_eq!(reason, format!("line {}: the file: goes on after its last line", lines.len() + 2));
    store.close().await;
}
