//! What goes over the wire. Domain types are not serialised directly.

use chatapi_domain::{
    Change, Defaults, Json, Listed, Member, Message, Name, Positions, Receipt, Room, RoomId, Tenant, TenantId,
    Timestamp, UserId,
};
use serde::Serialize;
use serde_json::Value;

/// A tenant, as the operator and the tenant itself see it.
#[derive(Serialize)]
pub(crate) struct TenantView<'a> {
    tenant_id: TenantId,
    name: &'a Name,
    status: &'static str,
    config: Value,
    created_at: Timestamp,
}

impl<'a> TenantView<'a> {
    pub(crate) fn new(tenant: &'a Tenant, defaults: &Defaults) -> Self {
        Self {
            tenant_id: tenant.tenant_id,
            name: &tenant.name,
            status: tenant.status.as_str(),
            config: tenant.config.to_view(defaults),
            created_at: tenant.created_at,
        }
    }
}

/// The key of a tenant that was just made; the only time it is shown.
#[derive(Serialize, Clone)]
pub(crate) struct NewKeyView<'a> {
    pub(crate) key_id: String,
    /// Absent from an answer that is kept.
    pub(crate) api_key: Option<&'a str>,
}

/// A tenant that was just made, with its key.
#[derive(Serialize)]
pub(crate) struct NewTenantView<'a> {
    #[serde(flatten)]
    pub(crate) tenant: TenantView<'a>,
    #[serde(flatten)]
    pub(crate) key: NewKeyView<'a>,
}

/// A room.
#[derive(Serialize)]
pub(crate) struct RoomView<'a> {
    room_id: RoomId,
    #[serde(rename = "type")]
    room_type: &'static str,
    unique_key: Option<&'a str>,
    name: Option<&'a Name>,
    metadata: Option<&'a Json>,
    first_seq: i64,
    last_seq: i64,
    last_change: i64,
    member_count: i32,
    created_by: Option<&'a UserId>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> From<&'a Room> for RoomView<'a> {
    fn from(room: &'a Room) -> Self {
        Self {
            room_id: room.room_id,
            room_type: room.room_type.as_str(),
            unique_key: room.unique_key.as_deref(),
            name: room.name.as_ref(),
            metadata: room.metadata.as_ref(),
            first_seq: room.first_seq,
            last_seq: room.last_seq,
            last_change: room.last_change,
            member_count: room.member_count,
            created_by: room.created_by.as_ref(),
            created_at: room.created_at,
            updated_at: room.updated_at,
        }
    }
}

/// A room in a list, with the caller's own place in it.
#[derive(Serialize)]
pub(crate) struct ListedView<'a> {
    #[serde(flatten)]
    room: RoomView<'a>,
    #[serde(flatten)]
    own: Option<OwnView<'a>>,
}

#[derive(Serialize)]
struct OwnView<'a> {
    role: &'static str,
    delivered_seq: i64,
    read_seq: i64,
    unread_count: i64,
    last_message: Option<MessageView<'a>>,
}

impl<'a> From<&'a Listed> for ListedView<'a> {
    fn from(listed: &'a Listed) -> Self {
        let own = listed.own.as_ref().map(|own| OwnView {
            role: own.role.as_str(),
            delivered_seq: own.delivered_seq,
            read_seq: own.read_seq,
            unread_count: own.unread_count,
            last_message: own.last_message.as_ref().map(MessageView::from),
        });
        Self { room: (&listed.room).into(), own }
    }
}

/// A member of a room.
#[derive(Serialize)]
pub(crate) struct MemberView<'a> {
    user_id: &'a UserId,
    role: &'static str,
    joined_at: Timestamp,
}

impl<'a> From<&'a Member> for MemberView<'a> {
    fn from(member: &'a Member) -> Self {
        Self { user_id: &member.user_id, role: member.role.as_str(), joined_at: member.joined_at }
    }
}

/// A message.
#[derive(Debug, Serialize)]
pub struct MessageView<'a> {
    message_id: chatapi_domain::MessageId,
    room_id: RoomId,
    sender_id: &'a UserId,
    seq: i64,
    content: &'a str,
    meta: Option<&'a Json>,
    client_message_id: Option<&'a chatapi_domain::ClientMessageId>,
    created_at: Timestamp,
    edited_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    reply_to: Option<chatapi_domain::MessageId>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            message_id: message.message_id,
            room_id: message.room_id,
            sender_id: &message.sender_id,
            seq: message.seq,
            content: &message.content,
            meta: message.meta.as_ref(),
            client_message_id: message.client_message_id.as_ref(),
            created_at: message.created_at,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            reply_to: message.reply_to,
        }
    }
}

/// A message in its present state, with the number of its latest change.
#[derive(Serialize)]
pub(crate) struct ChangeView<'a> {
    #[serde(flatten)]
    message: MessageView<'a>,
    change: i64,
}

impl<'a> From<&'a Change> for ChangeView<'a> {
    fn from(change: &'a Change) -> Self {
        Self { message: (&change.message).into(), change: change.change }
    }
}

/// A member's positions after an ack.
#[derive(Serialize)]
pub(crate) struct PositionsView {
    pub(crate) room_id: RoomId,
    pub(crate) delivered_seq: i64,
    pub(crate) read_seq: i64,
}

impl PositionsView {
    pub(crate) const fn new(room_id: RoomId, positions: Positions) -> Self {
        Self { room_id, delivered_seq: positions.delivered_seq, read_seq: positions.read_seq }
    }
}

/// How far a member is.
#[derive(Serialize)]
pub(crate) struct ReceiptView<'a> {
    user_id: &'a UserId,
    delivered_seq: i64,
    read_seq: i64,
    updated_at: Timestamp,
}

impl<'a> From<&'a Receipt> for ReceiptView<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        Self {
            user_id: &receipt.user_id,
            delivered_seq: receipt.positions.delivered_seq,
            read_seq: receipt.positions.read_seq,
            updated_at: receipt.updated_at,
        }
    }
}
