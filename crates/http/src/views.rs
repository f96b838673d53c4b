//! What goes over the wire. Domain types are not serialised directly.

use chatapi_domain::{
    Change, Defaults, KeyId, KeyInfo, Listed, Member, Name, Positions, Receipt, RoomId, Tenant, TenantId, Timestamp,
    UserId,
};
use chatapi_realtime::{MessageView, RoomView};
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

/// A key, without its secret.
#[derive(Serialize)]
pub(crate) struct KeyView<'a> {
    key_id: &'a KeyId,
    name: Option<&'a Name>,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl<'a> From<&'a KeyInfo> for KeyView<'a> {
    fn from(key: &'a KeyInfo) -> Self {
        Self {
            key_id: &key.key_id,
            name: key.name.as_ref(),
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
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
