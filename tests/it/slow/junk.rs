//! Whatever a socket is sent, no task goes down and no connection is left open.

use std::time::Duration;

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// A small generator of numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A client's text frame, masked.
fn frame(opcode: u8, payload: &[u8], random: &mut Random) -> Vec<u8> {
    let mask = [random.byte(), random.byte(), random.byte(), random.byte()];
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).expect("small")),
        length @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(length).expect("fits").to_be_bytes());
        }
        length => {
            bytes.push(0xff);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

async fn upgraded(app: &App, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nX-User-Id: alice\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

/// What one bad client sends.
fn junk(random: &mut Random, room: &str) -> Vec<u8> {
    let commands = [
        json!({"type": "send_message", "room_id": room, "content": "fine"}).to_string(),
        json!({"type": "sync", "rooms": {room: {"after_seq": 0, "after_change": 0}}}).to_string(),
        json!({"type": "sync"}).to_string(),
        json!({"type": "ack", "room_id": room, "seq": i64::MAX}).to_string(),
        json!({"type": "typing.start", "room_id": room, "data": {"room_id": [[[]]]}}).to_string(),
        json!({"type": 5, "request_id": {"a": 1}}).to_string(),
        "{\"type\": \"subscribe\", \"room_id\": \"\\ud800\"}".to_owned(),
    ];
    let mut bytes = Vec::new();
    for _ in 0..=random.below(6) {
        let command = &commands[random.below(commands.len())];
        let next = match random.below(8) {
            0 => (0..random.below(400)).map(|_| random.byte()).collect(),
            1 => frame(1, &(0..random.below(300)).map(|_| random.byte()).collect::<Vec<u8>>(), random),
            2 => frame(u8::try_from(random.below(16)).expect("small"), command.as_bytes(), random),
            3 => frame(1, &vec![b'x'; 300_000], random),
            4 => {
                // A head that promises more than ever comes, or more than there is.
                let mut head = vec![0x81, 0xff];
                head.extend(random.next().to_be_bytes());
                head
            }
            _ => frame(1, command.as_bytes(), random),
        };
        bytes.extend(next);
    }
    // Some bytes are turned, some are missing.
    for _ in 0..random.below(4) {
        if let Some(byte) = {
            let at = random.below(bytes.len().max(1));
            bytes.get_mut(at)
        } {
            *byte ^= 1 << random.below(8);
        }
    }
    if random.below(3) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    bytes
}

async fn open_sockets(app: &App) -> i64 {
    let metrics = app.send("GET", "/metrics", &[("Accept", "application/json")], None).await.expect(200);
    metrics.body["active_connections"].as_i64().expect("a number")
}

#[tokio::test]
async fn junk_takes_no_task_down_and_leaves_no_connection_open() {
    let app = App::builder().set("WS_MAX_CONNECTIONS_PER_USER", "1000").set("LOG_LEVEL", "info").start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let mut bob = tenant.user("bob").socket().await;
    let client = |seed: u64| {
        let (app, key, room) = (&app, tenant.key.clone(), room.clone());
        async move {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut stream = upgraded(app, &key).await;
            let bytes = junk(&mut random, &room);
            // In one piece or in small ones.
            let piece = if random.below(2) == 0 { bytes.len().max(1) } else { 1 + random.below(50) };
            for part in bytes.chunks(piece) {
                if stream.write_all(part).await.is_err() {
                    break;
                }
            }
            if random.below(2) == 0 {
                let mut rest = Vec::new();
                let _ = timeout(Duration::from_millis(200), stream.read_to_end(&mut rest)).await;
            }
        }
    };
    for round in 0..20 {
        join_all((0..50).map(|n| client(round * 50 + n + 1))).await;
    }

    let start = Instant::now();
    while open_sockets(&app).await > 1 {
        assert!(start.elapsed() < Duration::from_secs(30), "{} are still open", open_sockets(&app).await);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(app.logged("panicked"), Vec::<String>::new());
    // Everybody else goes on, and the room is as it should be.
    assert_eq!(bob.ask(json!({"type": "ping"})).await["type"], "pong");
    let last = tenant.user("bob").get(&format!("/rooms/{room}")).await.expect(200).body["last_seq"].clone();
    let sent = tenant.user("bob").say(&room, "after all").await;
    assert_eq!(sent["seq"].as_i64(), last.as_i64().map(|last| last + 1));
}

#[tokio::test]
async fn a_byte_a_second_keeps_no_connection_open_for_ever() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let mut random = Random(7);
    let bytes = frame(1, "x".repeat(1000).as_bytes(), &mut random);
    let (mut reader, mut writer) = upgraded(&app, &tenant.key).await.into_split();
    let start = Instant::now();

    let dripping = async {
        for byte in bytes {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let mut heard = Vec::new();
    tokio::select! {
        _ = reader.read_to_end(&mut heard) => {}
        () = dripping => {}
    }

    assert!(start.elapsed() < Duration::from_mins(2), "{:?}", start.elapsed());
    assert!(heard.windows(7).any(|window| window == b"no pong"), "closed with 4009");
    let waiting = Instant::now();
    while open_sockets(&app).await > 0 {
        assert!(waiting.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_as_too_slow_and_loses_nothing_after_a_sync() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let mut slow = upgraded(&app, &tenant.key).await;
    let mut sender = tenant.user("bob").socket().await;
    let content = "x".repeat(15_000);

    // Far more than the sockets' buffers and its queue hold.
    let mut sent = 0;
    let start = Instant::now();
    while app.send("GET", "/metrics", &[], None).await.text.contains("chatapi_websocket_too_slow_total 0") {
        for _ in 0..50 {
            sender.send(json!({"type": "send_message", "room_id": room, "content": content})).await;
            sent += 1;
        }
        sender.ask(json!({"type": "ping"})).await;
        assert!(start.elapsed() < Duration::from_mins(1), "after {sent} it is still not too slow");
    }
    let mut heard = Vec::new();
    timeout(Duration::from_secs(20), slow.read_to_end(&mut heard)).await.expect("it is closed").expect("in order");
    assert!(heard.windows(8).any(|window| window == b"too slow"), "closed with 4001");

    let mut alice = tenant.user("alice").socket().await;
    let (mut seqs, mut after) = (Vec::new(), 0);
    loop {
        alice.send(json!({"type": "sync", "rooms": {room.clone(): {"after_seq": after}}})).await;
        let (events, done) = alice.until("sync.done").await;
        seqs.extend(events.iter().filter_map(|event| event["seq"].as_i64()));
        after = done["rooms"][&room]["last_seq"].as_i64().expect("a seq");
        if done["rooms"][&room]["has_more"] == false {
            break;
        }
    }
    assert_eq!(seqs, (1..=sent).collect::<Vec<i64>>());
}
