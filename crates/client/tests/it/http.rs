//! Requests over HTTP: what is asked, and what is asked again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatapi_client::{
    Client, Credentials, Error, History, MessageEdit, NewMessage, NewRoom, Order, ReceiptKind, Role, RoomUpdate,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::reader::soon;

/// Answers what it is told to, in order, and remembers what it was asked.
struct Script {
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
    _running: AbortOnDropHandle<()>,
}

impl Script {
    async fn start(answers: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut answers: VecDeque<_> = answers.into_iter().collect();
        let running = TaskTracker::new().spawn({
            let asked = asked.clone();
            async move {
                while let Some((status, body)) = answers.pop_front() {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let request = read(&mut stream).await;
                    asked.lock().expect("no test has failed with it").push(request);
                    let body = body.to_string();
                    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}", body.len());
                    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.expect("it listens");
                }
            }
        });
        Self { base, asked, _running: AbortOnDropHandle::new(running) }
    }

    fn client(&self) -> Client {
        let credentials = Credentials::ApiKey { key: "sk_test".into(), user: Some("alice".to_owned()) };
        Client::new(&self.base, credentials).expect("an address")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test has failed with it").clone()
    }
}

/// One request: its first line, and its body.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok();
            if body.len() >= head.lines().find_map(length).unwrap_or(0) {
                let first = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1");
                return format!("{first} {body}").trim_end().to_owned();
            }
        }
        let read = stream.read(&mut buffer).await.expect("it speaks");
        assert!(read > 0, "it hung up in the middle of {text}");
        text += &String::from_utf8_lossy(&buffer[..read]);
    }
}

fn message() -> Value {
    json!({
        "message_id": "msg_1", "room_id": "room_1", "sender_id": "alice", "seq": 1, "content": "hi", "meta": null,
        "client_message_id": null, "created_at": "2026-01-31T12:00:00.000000Z", "edited_at": null,
        "deleted_at": null, "reply_to": null,
    })
}

fn room() -> Value {
    json!({
        "room_id": "room_1", "type": "dm", "unique_key": "dm:alice:bob", "name": null, "metadata": null,
        "first_seq": 1, "last_seq": 0, "last_change": 0, "member_count": 2, "created_by": "alice",
        "created_at": "2026-01-31T12:00:00.000000Z", "updated_at": "2026-01-31T12:00:00.000000Z",
    })
}

const AWAY: &str = "503 Away\r\nRetry-After: 0";

fn away() -> (&'static str, Value) {
    (AWAY, json!({"error": "unavailable", "message": "The database is away", "request_id": "req_1"}))
}

#[tokio::test]
async fn what_may_be_asked_twice_is_asked_again_when_the_server_has_no_time() {
    let server = Script::start([away(), ("200 OK", room()), away(), away(), ("201 Created", message())]).await;
    let client = server.client();

    soon(client.room("room_1")).await.expect("the second time it works");
    soon(client.send("room_1", "hi")).await.expect("the third time it works");

    let asked = server.asked();
    assert_eq!(asked[0], asked[1]);
    assert!(asked[2].contains("\"client_message_id\":\"c_"), "{}", asked[2]);
    assert_eq!((&asked[2], &asked[2]), (&asked[3], &asked[4]), "the same message each time");
}

#[tokio::test]
async fn what_may_not_be_asked_twice_is_not_and_the_rest_not_for_ever() {
    let server = Script::start((0..6).map(|_| away())).await;
    let client = server.client();

    for error in [
        soon(client.create_room(&NewRoom::dm("alice", "bob"))).await.expect_err("no time"),
        soon(client.room("room_1")).await.expect_err("no time"),
    ] {
        assert!(matches!(error, Error::Api { status: 503, request_id: Some(id), .. } if id == "req_1"));
    }

    assert_eq!(server.asked().len(), 5);
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_the_callers() {
    let body = json!({"error": "rate_limit_exceeded", "message": "Slow down", "request_id": "req_1"});
    let server = Script::start([("429 Slow\r\nRetry-After: 3600", body)]).await;

    let error = soon(server.client().room("room_1")).await.expect_err("not now");

    let hour = Duration::from_hours(1);
    assert!(matches!(error, Error::Api { retry_after: Some(wait), .. } if wait == hour));
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let server = Script::start([("302 There\r\nLocation: http://127.0.0.1:1/", json!({}))]).await;

    let error = soon(server.client().room("room_1")).await.expect_err("it is an error");

    assert_eq!(error.status(), Some(302));
}

#[tokio::test]
async fn each_call_asks_for_what_the_contract_says() {
    let page = json!({"members": [{"user_id": "bob", "role": "admin", "joined_at": "x"}], "next_cursor": null});
    let server = Script::start([
        ("201 X", room()),
        ("200 X", json!({"rooms": [room()], "next_cursor": "c"})),
        ("200 X", room()),
        ("204 X", Value::Null),
        ("200 X", page.clone()),
        ("200 X", page),
        ("200 X", json!({})),
        ("204 X", Value::Null),
        ("200 X", json!({"messages": [message()], "has_more": true})),
        ("200 X", message()),
        ("204 X", Value::Null),
        ("200 X", json!({"messages": [], "next_after": 7, "has_more": false})),
        ("200 X", json!({"room_id": "room_1", "delivered_seq": 4, "read_seq": 4})),
        ("200 X", json!({"receipts": [], "next_cursor": null})),
        ("200 X", json!({"presence": {"a,b": {"status": "online", "last_seen_at": null}}})),
        ("201 X", json!({"token": "ey", "user_id": "bob", "expires_at": "x"})),
        ("204 X", Value::Null),
        ("200 X", json!({"token": "wst_1", "expires_in": 60})),
        ("201 X", json!({"tenant_id": "tenant_1", "name": "N", "api_key": "sk_new", "created_at": "x"})),
    ])
    .await;
    let client = server.client();

    soon(all_calls(&client)).await.expect("each is understood");

    assert_eq!(
        server.asked(),
        [
            r#"POST /rooms {"type":"dm","members":["alice","bob"]}"#,
            "GET /rooms?limit=2&cursor=a%26b",
            r#"PATCH /rooms/room_1 {"name":"N"}"#,
            "DELETE /rooms/room_1",
            "GET /rooms/room_1/members",
            r#"POST /rooms/room_1/members {"user_ids":["bob"],"role":"admin"}"#,
            r#"PATCH /rooms/room_1/members/auth0%7C42 {"role":"member"}"#,
            "DELETE /rooms/room_1/members/a%2Fb",
            "GET /rooms/room_1/messages?order=desc&limit=20&before_seq=9",
            r#"PUT /rooms/room_1/messages/msg_1 {"content":"ho","meta":null}"#,
            "DELETE /rooms/room_1/messages/msg_1",
            "GET /rooms/room_1/changes?after=3",
            r#"POST /acks {"room_id":"room_1","seq":4,"type":"read"}"#,
            "GET /rooms/room_1/receipts",
            "GET /presence?user_ids=a%2Cb,c",
            r#"POST /tokens {"user_id":"bob","expires_in":3600}"#,
            "POST /tokens/revoke {}",
            "POST /ws/token",
            r#"POST /admin/tenants {"name":"N"}"#,
        ]
    );
}

async fn all_calls(client: &Client) -> chatapi_client::Result<()> {
    client.create_room(&NewRoom::dm("alice", "bob")).await?;
    assert_eq!(client.rooms(None, Some(2), Some("a&b")).await?.next_cursor.as_deref(), Some("c"));
    let update = RoomUpdate { name: Some(Some("N".to_owned())), ..RoomUpdate::default() };
    client.update_room("room_1", &update).await?;
    client.delete_room("room_1").await?;
    assert_eq!(client.members("room_1", None, None).await?.members[0].role, Role::Admin);
    client.add_members("room_1", &["bob"], Some(Role::Admin)).await?;
    client.set_role("room_1", "auth0|42", Role::Member).await?;
    client.remove_member("room_1", "a/b").await?;
    let part = History { before_seq: Some(9), order: Order::Descending, limit: Some(20), ..History::default() };
    assert!(client.messages("room_1", &part).await?.has_more);
    let edit = MessageEdit { content: "ho".to_owned(), meta: Some(None) };
    client.edit_message("room_1", "msg_1", &edit).await?;
    client.delete_message("room_1", "msg_1").await?;
    assert_eq!(client.changes("room_1", 3, None).await?.next_after, 7);
    assert_eq!(client.ack("room_1", 4, ReceiptKind::Read).await?.read_seq, 4);
    client.receipts("room_1", None, None).await?;
    assert_eq!(client.presence(&["a,b", "c"]).await?["a,b"].status, "online");
    client.create_token("bob", Some(Duration::from_hours(1))).await?;
    client.revoke_tokens(None).await?;
    client.socket_ticket().await?;
    let tenant = client.create_tenant("N", None).await?;
    assert!(!format!("{tenant:?}").contains("sk_new"));
    Ok(())
}

#[tokio::test]
async fn a_message_keeps_the_id_that_its_sender_gave() {
    let server = Script::start([("200 OK", message())]).await;

    soon(server.client().send("room_1", NewMessage::new("hi").client_message_id("mine"))).await.expect("it is sent");

    let asked = [r#"POST /rooms/room_1/messages {"content":"hi","client_message_id":"mine"}"#];
    assert_eq!(server.asked(), asked);
}
