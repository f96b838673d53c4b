//! Events come in order, each once, without a gap.

use std::collections::HashMap;

use chatapi_client::{ConnectOptions, Event, Position};
use serde_json::json;

use crate::reader::{client, connected, eventually, next, numbered, options, until, until_connected};
use crate::server::{Server, Way};

#[tokio::test]
async fn what_was_sent_before_the_connection_is_not_told_and_what_comes_after_is() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.say("room_a", "hello", Way::Once);

    assert_eq!(numbered(&live, 1).await, "a4");
    assert_eq!(live.positions()["room_a"], Position::new(4, 0));
}

#[tokio::test]
async fn a_message_sent_while_away_comes_though_none_was_seen_before() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.cut();
    server.say("room_a", "where are you", Way::Never);

    assert_eq!(numbered(&live, 1).await, "a4");
}

#[tokio::test]
async fn what_is_repeated_reordered_or_left_out_comes_in_order_and_once() {
    for repeats in [false, true] {
        let server = Server::start().await;
        server.state().repeats = repeats;
        let live = connected(&server).await;

        for way in [Way::Once, Way::Twice, Way::Late, Way::Once, Way::Never, Way::Late, Way::Twice] {
            server.say("room_a", "text", way);
        }

        assert_eq!(numbered(&live, 7).await, "a4 a5 a6 a7 a8 a9 a10");
        server.say("room_a", "last", Way::Once);
        assert_eq!(numbered(&live, 1).await, "a11", "nothing came twice");
    }
}

#[tokio::test]
async fn what_was_missed_comes_in_pages() {
    let server = Server::start().await;
    let live = connected(&server).await;
    server.state().page = 2;

    server.cut();
    for _ in 0..5 {
        server.say("room_a", "text", Way::Never);
    }
    for seq in [1, 2, 4, 2] {
        server.change("room_a", seq, Some("edited"), Way::Never);
    }

    assert_eq!(numbered(&live, 8).await, "a4 a5 a6 a7 a8 a!1 a!3 a!4", "change 2 was superseded by 4");
    assert_eq!(live.positions()["room_a"], Position::new(8, 4));
}

#[tokio::test]
async fn a_hole_that_retention_left_is_passed_over() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.cut();
    for _ in 0..10 {
        server.say("room_a", "text", Way::Never);
    }
    server.state().world.log_mut("room_a").first_seq = 11;

    assert_eq!(numbered(&live, 3).await, "a11 a12 a13");
    server.cut();
    server.state().world.log_mut("room_a").first_seq = 15;
    server.say("room_a", "gone before anybody saw it", Way::Never);
    until_connected(&live).await;
    server.say("room_a", "next", Way::Once);
    assert_eq!(numbered(&live, 1).await, "a15");
}

#[tokio::test]
async fn a_list_of_rooms_in_pages_is_read_to_its_end() {
    let server = Server::start().await;
    {
        let mut state = server.state();
        state.list_page = 2;
        for room in ["room_b", "room_c", "room_d", "room_e"] {
            state.world.add(room);
        }
    }
    let live = connected(&server).await;

    assert_eq!(live.positions().len(), 5);
    server.cut();
    for room in ["room_a", "room_e"] {
        server.say(room, "text", Way::Never);
    }
    let mut names = [numbered(&live, 1).await, numbered(&live, 1).await];
    names.sort();
    assert_eq!(names, ["a4", "e1"]);
}

#[tokio::test]
async fn given_positions_are_gone_on_from() {
    let server = Server::start().await;
    let positions = HashMap::from([("room_a".to_owned(), Position::new(1, 0)), ("room_x".to_owned(), (9, 9).into())]);
    let live = client(&server).connect(ConnectOptions { positions, ..options() });

    assert_eq!(numbered(&live, 2).await, "a2 a3");
    server.say("room_a", "text", Way::Once);
    assert_eq!(numbered(&live, 1).await, "a4");
    assert!(!live.positions().contains_key("room_x"), "a room that is not the user's is forgotten");
}

#[tokio::test]
async fn from_delivered_begins_where_the_user_is() {
    let server = Server::start().await;
    server.state().world.log_mut("room_a").delivered_seq = 2;
    let live = client(&server).connect(ConnectOptions { from_delivered: true, ..options() });

    assert_eq!(numbered(&live, 1).await, "a3");
}

#[tokio::test]
async fn a_room_that_is_made_meanwhile_begins_at_its_first_message() {
    let server = Server::start().await;
    let live = connected(&server).await;

    let event = {
        let mut state = server.state();
        state.world.add("room_b");
        state.world.say("room_b", "already here", None);
        json!({"type": "room.created", "room_id": "room_b", "room": state.world.room("room_b")})
    };
    server.send(&event);

    assert!(matches!(next(&live).await, Event::RoomCreated(room) if room.room_id == "room_b"));
    assert_eq!(numbered(&live, 1).await, "b1");
}

#[tokio::test]
async fn a_room_that_is_made_while_away_begins_at_its_first_message() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.cut();
    {
        let mut state = server.state();
        // Another device of the user has it already.
        state.world.add("room_b").delivered_seq = 2;
        state.world.add("room_c").delivered_seq = 3;
        state.world.log_mut("room_c").created = crate::world::EARLY;
    }
    for room in ["room_b", "room_b", "room_c", "room_c", "room_c", "room_c"] {
        server.say(room, "text", Way::Never);
    }

    let mut names: Vec<_> = [numbered(&live, 1).await, numbered(&live, 1).await, numbered(&live, 1).await].into();
    names.sort();
    assert_eq!(names, ["b1", "b2", "c4"], "of an old room only what came after the user did");
}

#[tokio::test]
async fn a_room_that_the_user_is_added_to_begins_there_and_one_that_was_left_is_over() {
    let server = Server::start().await;
    let live = connected(&server).await;
    let added = {
        let mut state = server.state();
        state.world.add("room_b");
        for _ in 0..4 {
            state.world.say("room_b", "before", None);
        }
        let room = state.world.room("room_b");
        json!({"type": "member.added", "room_id": "room_b", "user_ids": ["carol", "alice"], "room": room})
    };

    server.send(&added);
    server.say("room_b", "welcome", Way::Once);
    until(&live, |event| matches!(event, Event::MemberAdded { .. })).await;
    assert_eq!(numbered(&live, 1).await, "b5");

    server.send(&json!({"type": "member.removed", "room_id": "room_b", "user_id": "alice"}));
    server.send(&json!({"type": "member.removed", "room_id": "room_a", "user_id": "carol"}));
    until(&live, |event| matches!(event, Event::MemberRemoved { room_id, .. } if room_id == "room_a")).await;
    assert_eq!(live.positions().into_keys().collect::<Vec<_>>(), ["room_a"]);
}

#[tokio::test]
async fn an_edit_while_away_comes_after_the_messages() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.cut();
    server.say("room_a", "first text", Way::Never);
    server.change("room_a", 4, Some("second text"), Way::Never);
    server.change("room_a", 1, None, Way::Never);

    let Event::Message(message) = next(&live).await else { panic!("a message comes first") };
    assert_eq!(message.content, "second text");
    assert!(matches!(next(&live).await, Event::Edited(edited) if edited.change == 1));
    assert!(matches!(next(&live).await, Event::Deleted { seq: 1, change: 2, .. }));
}

#[tokio::test]
async fn a_sync_that_is_refused_is_asked_again_room_by_room_and_later() {
    let server = Server::start().await;
    server.state().world.add("room_b");
    let live = connected(&server).await;

    server.state().errors.extend([("sync", "not_found"), ("sync", "unavailable")]);
    server.cut();
    server.say("room_a", "text", Way::Never);
    server.say("room_b", "text", Way::Never);

    let mut names = [numbered(&live, 1).await, numbered(&live, 1).await];
    names.sort();
    assert_eq!(names, ["a4", "b1"]);
}

#[tokio::test]
async fn a_room_that_is_hidden_now_is_forgotten() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.state().world.log_mut("room_a").hidden = true;
    server.cut();
    until_connected(&live).await;
    eventually(|| server.state().kinds().contains(&"sync")).await;
    server.send(&json!({"type": "presence.update", "user_id": "bob", "status": "online"}));

    until(&live, |event| matches!(event, Event::Presence { .. })).await;
    assert!(live.positions().is_empty());
}
