//! A chat inside another program, without HTTP: makes a tenant and a room, sends, reads.
//!
//! `DATABASE_URL=postgres://… cargo run -p chatapi-storage --example embed`
//! (or `make example`, which brings a throw-away PostgreSQL).

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use chatapi_domain::access::Actor;
use chatapi_domain::{
    Config, Content, HistoryQuery, KeyId, MessageId, Name, NewMessage, NewRoom, Order, RoomId, RoomType, Roster,
    Tenant, TenantId, TenantKey, TenantStatus, Timestamp, UserId,
};
use chatapi_storage::{Connector, Options, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "a program reads its own environment")]
    let url = std::env::var("DATABASE_URL").or_else(|_| std::env::var("CHATAPI_TEST_SERVER"))?;
    let store = Store::connect(Connector::parse(&url)?, Options::default())?;
    store.migrate().await?;

    // A tenant. This program needs no API key of it, so the key it gets opens nothing.
    let now = now();
    let tenant = Tenant {
        tenant_id: TenantId::new(now),
        name: Name::parse("name", "Embedded")?,
        status: TenantStatus::Active,
        config: Config::default(),
        created_at: now,
    };
    let key = TenantKey {
        key_id: KeyId::parse("unused000000")?,
        secret_hash: String::new(),
        expires_at: Some(now),
        revoked_at: Some(now),
    };
    store.tenants().create(&tenant, &key).await?;
    let chat = store.tenant(tenant.tenant_id);

    // A room of two.
    let (alice, bob) = (UserId::parse("user", "alice")?, UserId::parse("user", "bob")?);
    let new = NewRoom {
        room_type: RoomType::Dm,
        name: None,
        metadata: None,
        created_by: None,
        roster: Roster::new(RoomType::Dm, vec![alice.clone(), bob.clone()], None, 2)?,
    };
    let (room, _) = chat.rooms().create(RoomId::new(now), &new, now).await?;

    // One message each. When `append` returns, the message is on disk.
    for (sender, text) in [(&alice, "Hello from inside another program"), (&bob, "Hi Alice")] {
        let message = NewMessage {
            message_id: MessageId::new(now),
            room_id: room.room_id,
            sender_id: sender.clone(),
            content: Content::parse(text.to_owned(), 16_384)?,
            meta: None,
            client_message_id: None,
            reply_to: None,
        };
        chat.messages().append(message).await?;
    }

    // Read back as Alice.
    let all = HistoryQuery { after_seq: None, before_seq: None, order: Order::Ascending, limit: 50 };
    let history = chat.messages().history(room.room_id, &Actor::User(alice), &all).await?;
    for message in &history.messages {
        println!("{} {}: {}", message.seq, message.sender_id, message.content);
    }
    store.close().await;
    if history.messages.len() == 2 { Ok(()) } else { Err("expected two messages".into()) }
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the edge of this program")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
