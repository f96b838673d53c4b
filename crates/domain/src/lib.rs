//! What a chat is: ids, tenants, rooms, members, messages, receipts, and the rules they obey.
//!
//! Pure: it knows no runtime, no SQL, no HTTP and no clock. A value of a type here has been
//! checked: a [`UserId`] or a [`Content`] cannot hold what the contract forbids, so nobody below
//! checks again. Who may do what in a room stands in [`access`] and nowhere else.
//!
//! To add a noun: a file named for it, its checked type, and a test beside it.

pub mod access;
mod bucket;
mod config;
mod fact;
mod id;
mod message;
#[cfg(feature = "postgres")]
mod postgres;
mod room;
mod tenant;
mod text;
mod timestamp;
mod view;
mod webhook;

pub use bucket::{Bucket, Rate, Verdict};
pub use config::{Config, Defaults, Settings, WebhookSecrets};
pub use fact::Fact;
pub use id::{ConnectionId, EventId, InvalidId, KeyId, MessageId, NodeId, RequestId, RoomId, TenantId};
pub use message::{
    Advanced, Change, Content, HistoryQuery, Message, NewMessage, Order, Positions, Receipt, ReceiptKind,
};
pub use room::{Listed, Member, NewRoom, Own, Place, Role, Room, RoomPatch, RoomType, Roster, direct_message_key};
pub use tenant::{Grace, KeyInfo, Tenant, TenantKey, TenantPatch, TenantStatus};
pub use text::{ClientMessageId, Json, Name, UserId};
pub use timestamp::Timestamp;
pub use view::{MessageView, RoomView};
pub use webhook::{WebhookEvent, WebhookEvents, check_webhook_url, is_public, secret_bytes};

/// A value from outside that breaks a rule of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Path of the field, as the caller wrote it: `members[1]`.
    pub field: String,
    /// What would be right.
    pub reason: String,
    /// Whether the value is only too long: HTTP answers `413` to that.
    pub too_large: bool,
}

impl Invalid {
    /// Says that `field` breaks a rule, and which.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), too_large: false }
    }

    /// Says that `field` is longer than allowed.
    pub fn too_large(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), too_large: true }
    }
}
