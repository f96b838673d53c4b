//! What these tests share: short ways to a tenant, a room, a message.

use std::time::{SystemTime, UNIX_EPOCH};

use chatapi_domain::{
    ClientMessageId, Config, Content, KeyId, MessageId, Name, NewMessage, NewRoom, Room, RoomId, RoomType, Roster,
    Tenant, TenantId, TenantKey, TenantStatus, Timestamp, UserId,
};
use chatapi_storage::{Appended, Error, Store, TenantStore};

pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "a test is an edge")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("before the year 292277"))
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse("user", name).expect("a user id")
}

pub(crate) async fn tenant(store: &Store) -> TenantId {
    let tenant = Tenant {
        tenant_id: TenantId::new(now()),
        name: Name::parse("name", "t").expect("a name"),
        status: TenantStatus::Active,
        config: Config::default(),
        created_at: now(),
    };
    let key = TenantKey {
        key_id: KeyId::parse("0123456789ab").expect("an id"),
        secret_hash: String::new(),
        expires_at: None,
        revoked_at: None,
    };
    assert!(store.tenants().create(&tenant, &key).await.expect("made"));
    tenant.tenant_id
}

pub(crate) async fn room(chat: TenantStore<'_>, room_type: RoomType, members: &[&str]) -> Room {
    let named = members.iter().map(|name| user(name)).collect();
    let creator = user(members[0]);
    let new = NewRoom {
        room_type,
        name: None,
        metadata: None,
        roster: Roster::new(room_type, named, Some(&creator), 1000).expect("a roster"),
        created_by: Some(creator),
    };
    chat.rooms().create(RoomId::new(now()), &new, now()).await.expect("made").0
}

pub(crate) fn message(room: RoomId, sender: &str, content: &str) -> NewMessage {
    NewMessage {
        message_id: MessageId::new(now()),
        room_id: room,
        sender_id: user(sender),
        content: Content::parse(content.to_owned(), 10_000).expect("content"),
        meta: None,
        client_message_id: None,
        reply_to: None,
    }
}

pub(crate) fn named(mut message: NewMessage, id: &str) -> NewMessage {
    message.client_message_id = Some(ClientMessageId::parse(id).expect("an id"));
    message
}

pub(crate) async fn send(chat: TenantStore<'_>, new: NewMessage) -> Result<Appended, Error> {
    chat.messages().append(new).await
}
