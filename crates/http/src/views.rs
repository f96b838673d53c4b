//! What goes over the wire. Domain types are not serialised directly.

use std::fmt;

use chatapi_domain::{
    Change, Defaults, KeyId, KeyInfo, Listed, Member, MessageView, Name, Positions, Receipt, RoomId, RoomView, Tenant,
    TenantId, Timestamp, UserId,
};
use chatapi_storage::{Counts, Imported};
use serde::Serialize;
use serde_json::Value;

/// A tenant, as the operator and the tenant itself see it.
#[derive(Debug, Serialize)]
pub struct TenantView<'a> {
    tenant_id: TenantId,
    name: &'a Name,
    status: &'static str,
    config: Value,
    created_at: Timestamp,
}

impl<'a> TenantView<'a> {
    /// This tenant, with `defaults` where nothing was set.
    #[must_use]
    pub fn new(tenant: &'a Tenant, defaults: &Defaults) -> Self {
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
#[derive(Debug, Serialize)]
pub struct KeyView<'a> {
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

/// A key that was just made; the only time that it is shown.
#[derive(Serialize)]
pub struct NewKeyView<'a> {
    #[serde(flatten)]
    key: KeyView<'a>,
    /// Absent from an answer that is kept.
    api_key: Option<&'a str>,
}

impl<'a> NewKeyView<'a> {
    /// This key, with the whole of it where it is to be shown.
    #[must_use]
    pub fn new(key: &'a KeyInfo, api_key: Option<&'a str>) -> Self {
        Self { key: key.into(), api_key }
    }
}

/// A tenant that was just made, with its key.
#[derive(Serialize)]
pub struct NewTenantView<'a> {
    #[serde(flatten)]
    tenant: TenantView<'a>,
    key_id: &'a KeyId,
    /// Absent from an answer that is kept.
    api_key: Option<&'a str>,
}

impl<'a> NewTenantView<'a> {
    /// This tenant and its key, with the whole of it where it is to be shown.
    #[must_use]
    pub fn new(tenant: &'a Tenant, defaults: &Defaults, key_id: &'a KeyId, api_key: Option<&'a str>) -> Self {
        Self { tenant: TenantView::new(tenant, defaults), key_id, api_key }
    }
}

/// How much of a tenant there is in an export.
#[derive(Debug, Serialize)]
pub struct CountsView {
    rooms: u64,
    members: u64,
    messages: u64,
    last_seen: u64,
}

impl From<Counts> for CountsView {
    fn from(Counts { rooms, members, messages, last_seen }: Counts) -> Self {
        Self { rooms, members, messages, last_seen }
    }
}

/// A tenant that was just imported, with its key.
#[derive(Debug, Serialize)]
pub struct ImportedView<'a> {
    #[serde(flatten)]
    made: NewTenantView<'a>,
    imported: CountsView,
}

impl<'a> ImportedView<'a> {
    /// This tenant and its key, and how much came with it.
    #[must_use]
    pub fn new(imported: &'a Imported, defaults: &Defaults, key_id: &'a KeyId, api_key: &'a str) -> Self {
        let made = NewTenantView::new(&imported.tenant, defaults, key_id, Some(api_key));
        Self { made, imported: imported.counts.into() }
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

impl fmt::Debug for NewKeyView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKeyView").finish_non_exhaustive()
    }
}

impl fmt::Debug for NewTenantView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTenantView").finish_non_exhaustive()
    }
}
