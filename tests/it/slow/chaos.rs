//! The promise of the socket under fire: senders write, receivers come and go and sync, the server
//! is killed, the database's connections are cut; and every receiver has every message once, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use chatapi_client::{Client, ConnectOptions, Credentials, Event, Position};
use chatapi_tests::{App, RoundRobin, Tenant};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SENDERS: usize = 20;
const RECEIVERS: usize = 50;
const DURATION: Duration = Duration::from_mins(1);

/// What everybody in it shares.
#[derive(Clone)]
struct Stage {
    url: String,
    key: String,
    room: String,
    stop: Arc<AtomicBool>,
    /// The room's last seq, once the senders have stopped; 0 before.
    last_seq: Arc<AtomicI64>,
}

impl Stage {
    async fn new(tenant: &Tenant<'_>, url: String) -> Self {
        let names: Vec<String> =
            (0..SENDERS).map(|n| format!("sender{n}")).chain((0..RECEIVERS).map(|n| format!("receiver{n}"))).collect();
        let room = tenant.room("group", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        Self { url, key: tenant.key.clone(), room, stop: Arc::default(), last_seq: Arc::default() }
    }

    fn client(&self, user: &str) -> Client {
        let credentials = Credentials::ApiKey { key: self.key.clone().into(), user: Some(user.to_owned()) };
        Client::new(&self.url, credentials).expect("a client")
    }

    /// Sends one message after the other until it is told to stop; each until it is known to be
    /// there. What was acknowledged: its text and seq.
    async fn send(self, number: usize) -> HashMap<String, i64> {
        let (client, mut told) = (self.client(&format!("sender{number}")), HashMap::new());
        for count in 0.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let text = format!("{number}/{count}");
            let message = chatapi_client::NewMessage::new(&text).client_message_id(&text);
            let start = Instant::now();
            let sent = loop {
                match client.send(&self.room, message.clone()).await {
                    Ok(sent) => break sent,
                    Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{text}: {error}"),
                }
                sleep(Duration::from_millis(50)).await;
            };
            told.insert(text, sent.seq);
            sleep(Duration::from_millis(100 + 7 * number as u64)).await;
        }
        told
    }

    /// Follows the room over many connections until it has everything: the texts, by their seq.
    async fn receive(self, number: usize) -> Vec<String> {
        let client = self.client(&format!("receiver{number}"));
        let (mut heard, mut at) = (Vec::new(), Position::new(0, 0));
        let mut turn = number as u64;
        loop {
            let positions = HashMap::from([(self.room.clone(), at)]);
            let live = client.connect(ConnectOptions { positions, ..ConnectOptions::default() });
            // Each connection is given up after a while, at another moment each time.
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let leave_at = Instant::now() + Duration::from_millis(200 + (turn >> 33) % 4000);
            loop {
                let last_seq = self.last_seq.load(Relaxed);
                let count = i64::try_from(heard.len()).expect("few");
                if last_seq > 0 && count >= last_seq {
                    live.close().await;
                    return heard;
                }
                if last_seq == 0 && Instant::now() >= leave_at {
                    break;
                }
                let Ok(event) = timeout(Duration::from_millis(100), live.next()).await else { continue };
                match event.expect("it goes on").expect("no end") {
                    Event::Message(message) if message.room_id == self.room => {
                        assert_eq!(message.seq, count + 1, "receiver{number}: in order, each once");
                        heard.push(message.content.clone());
                    }
                    _ => {}
                }
            }
            at = live.positions().get(&self.room).copied().unwrap_or(at);
            live.close().await;
        }
    }
}

/// Breaks every connection that anybody has to the database.
async fn cut(app: &App) {
    let sql = app.sql().await;
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
    let ended: i64 = sql.query_one(cut, &[]).await.expect("cut").get(0);
    assert!(ended > 3, "{ended}");
}

/// Lets everybody begin.
fn begin(stage: &Stage) -> (JoinSet<HashMap<String, i64>>, JoinSet<Vec<String>>) {
    let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
    for number in 0..SENDERS {
        senders.spawn(stage.clone().send(number));
    }
    for number in 0..RECEIVERS {
        receivers.spawn(stage.clone().receive(number));
    }
    (senders, receivers)
}

/// Lets everybody end, and compares.
async fn end(stage: &Stage, mut senders: JoinSet<HashMap<String, i64>>, mut receivers: JoinSet<Vec<String>>) {
    stage.stop.store(true, Relaxed);
    let mut told = HashMap::new();
    while let Some(sender) = senders.join_next().await {
        told.extend(sender.expect("no panic"));
    }
    let last_seq = stage.client("sender0").room(&stage.room).await.expect("the room").last_seq;
    assert_eq!(
        i64::try_from(told.len()).expect("few"),
        last_seq,
        "what was acknowledged is there once, and nothing else"
    );
    assert!(last_seq > 1000, "{last_seq}");
    stage.last_seq.store(last_seq, Relaxed);
    let all = async {
        while let Some(receiver) = receivers.join_next().await {
            let heard = receiver.expect("a receiver that has everything");
            for (text, seq) in &told {
                assert_eq!(heard.get(usize::try_from(seq - 1).expect("a seq")), Some(text));
            }
        }
    };
    timeout(Duration::from_mins(1), all).await.expect("everybody has everything in time");
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn every_receiver_has_every_message_once_in_order_though_the_server_is_killed() {
    let mut app = App::builder().set("LISTEN_ADDR", &free_port()).set("LOG_LEVEL", "info").start().await;
    let stage = Stage::new(&app.tenant("t").await, app.url.clone()).await;
    let (senders, receivers) = begin(&stage);

    sleep(DURATION / 4).await;
    cut(&app).await;
    sleep(DURATION / 4).await;
    app.signal("KILL").await;
    let app = app.restart().await;
    app.ready().await;
    sleep(DURATION / 2).await;

    end(&stage, senders, receivers).await;
}

#[tokio::test]
async fn the_same_with_two_nodes_behind_a_round_robin() {
    let mut one = App::builder().set("LOG_LEVEL", "info").start().await;
    let two = one.second_node().await;
    two.ready().await;
    let balancer = RoundRobin::start(&[&one.url, &two.url]).await;
    let stage = Stage::new(&one.tenant("t").await, balancer.url()).await;
    let (senders, receivers) = begin(&stage);

    sleep(DURATION / 4).await;
    cut(&two).await;
    sleep(DURATION / 4).await;
    one.signal("KILL").await;
    sleep(Duration::from_secs(1)).await;
    let one = one.restart().await;
    one.ready().await;
    balancer.set(&[&one.url, &two.url]);
    sleep(DURATION / 2).await;

    end(&stage, senders, receivers).await;
}

#[tokio::test]
async fn the_users_of_a_node_that_is_killed_are_offline_within_30_seconds() {
    let mut one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant("t").await;
    let (id, key) = (tenant.id.clone(), tenant.key.clone());
    tenant.room("group", &["alice", "bob"]).await;
    let _alice = tenant.user("alice").socket().await;
    let mut bob = tenant.through(&two).user("bob").socket().await;
    while bob.ask(serde_json::json!({"type": "ping"})).await["type"] != "pong" {}
    let online = |app: &App| {
        let (url, key) = (format!("{}/presence?user_ids=alice", app.url), key.clone());
        async move {
            let answer = reqwest::Client::new().get(url).header("X-API-Key", key).send().await.expect("an answer");
            answer.text().await.expect("a text").contains("online")
        }
    };
    let start = Instant::now();
    while !online(&two).await {
        assert!(start.elapsed() < Duration::from_secs(5), "{id}");
        sleep(Duration::from_millis(50)).await;
    }

    one.signal("KILL").await;
    let killed = Instant::now();

    loop {
        let event = bob.next_of("presence.update").await;
        if event["status"] == "offline" {
            assert_eq!(event["user_id"], "alice");
            break;
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
    assert!(!online(&two).await);
}
