//! Whatever happens on the way, in the end the client has what the server has.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chatapi_client::{Event, Position};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::timeout;

use crate::reader::{client, options, soon, until_connected};
use crate::server::{Server, Way};

const ROOMS: [&str; 2] = ["room_a", "room_b"];

#[derive(Debug, Clone)]
enum Step {
    Say {
        room: usize,
        way: Way,
    },
    Edit {
        room: usize,
        nth: i64,
        way: Way,
    },
    Delete {
        room: usize,
        nth: i64,
        way: Way,
    },
    Send {
        room: usize,
    },
    Cut,
    Close,
    /// Lets the client come to itself.
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let way = prop_oneof![6 => Just(Way::Once), 1 => Just(Way::Twice), 1 => Just(Way::Late), 1 => Just(Way::Never)];
    let place = (0..ROOMS.len(), 0..9_i64, way);
    prop_oneof![
        6 => place.clone().prop_map(|(room, _, way)| Step::Say { room, way }),
        2 => place.clone().prop_map(|(room, nth, way)| Step::Edit { room, nth, way }),
        1 => place.prop_map(|(room, nth, way)| Step::Delete { room, nth, way }),
        1 => (0..ROOMS.len()).prop_map(|room| Step::Send { room }),
        1 => Just(Step::Cut),
        1 => Just(Step::Close),
        3 => Just(Step::Pause),
    ]
}

/// What a program shows that believes its events.
#[derive(Default)]
struct Screen {
    texts: BTreeMap<(String, i64), String>,
    at: BTreeMap<String, Position>,
}

impl Screen {
    /// Takes the events of a room in; panics if one comes twice, or too early.
    fn show(&mut self, event: Event) {
        match event {
            Event::Message(message) => {
                let at = self.at.entry(message.room_id.clone()).or_default();
                assert_eq!(message.seq, at.seq + 1, "{}: a gap, or the same again", message.room_id);
                at.seq = message.seq;
                self.texts.insert((message.room_id, message.seq), message.content);
            }
            Event::Edited(edited) => {
                self.changed(&edited.message.room_id, edited.change);
                self.texts.insert((edited.message.room_id, edited.message.seq), edited.message.content);
            }
            Event::Deleted { room_id, seq, change, .. } => {
                self.changed(&room_id, change);
                self.texts.insert((room_id, seq), String::new());
            }
            _ => {}
        }
    }

    fn changed(&mut self, room: &str, change: i64) {
        let at = self.at.entry(room.to_owned()).or_default();
        assert!(change > at.change, "{room}: change {change} after {}", at.change);
        at.change = change;
    }
}

async fn run(steps: Vec<Step>, repeats: bool, page: usize) {
    let server = Server::start().await;
    {
        let mut state = server.state();
        (state.repeats, state.page) = (repeats, page);
        state.world.rooms.clear();
        for room in ROOMS {
            state.world.add(room);
        }
    }
    let live = client(&server).connect(options());
    until_connected(&live).await;

    let mut screen = Screen::default();
    let changeable = |room: &str, nth: i64| {
        let state = server.state();
        let last = state.world.log(room).last_seq();
        (last > 0).then(|| nth % last + 1).filter(|seq| !state.world.is_deleted(room, *seq))
    };
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Say { room, way } => drop(server.say(ROOMS[room], &format!("text {number}"), way)),
            Step::Edit { room, nth, way } => {
                if let Some(seq) = changeable(ROOMS[room], nth) {
                    server.change(ROOMS[room], seq, Some(&format!("edit {number}")), way);
                }
            }
            Step::Delete { room, nth, way } => {
                if let Some(seq) = changeable(ROOMS[room], nth) {
                    server.change(ROOMS[room], seq, None, way);
                }
            }
            Step::Send { room } => drop(soon(live.send(ROOMS[room], format!("own {number}"))).await.expect("sent")),
            Step::Cut => server.cut(),
            Step::Close => server.close(1001),
            Step::Pause => tokio::task::yield_now().await,
        }
    }
    // What was never told shows at the next connection.
    for room in ROOMS {
        let seq = server.say(room, "last", Way::Never);
        server.change(room, seq, Some("the end"), Way::Never);
    }
    server.cut();
    let end = |room: &str| {
        let state = server.state();
        Position::new(state.world.log(room).last_seq(), state.world.log(room).last_change())
    };
    let ends = HashMap::from(ROOMS.map(|room| (room.to_owned(), end(room))));
    soon(async {
        // Not every move of a position is an event: an edit of a message that was not seen is none.
        while live.positions() != ends {
            if let Ok(event) = timeout(Duration::from_millis(5), live.next()).await {
                screen.show(event.expect("not the end").expect("no error"));
            }
        }
    })
    .await;

    let mut texts = BTreeMap::new();
    for (room, log) in &server.state().world.rooms {
        let numbered = (1..).zip(&log.messages);
        texts.extend(numbered.map(|(seq, message)| ((room.clone(), seq), message.content.clone())));
    }
    assert_eq!(screen.texts, texts);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_client_ends_with_what_the_server_has(
        steps in vec(step(), 1..60),
        repeats in any::<bool>(),
        page in 1..6_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(steps, repeats, page));
    }
}
