//! What an endpoint is told.

use chatapi_domain::{Json, MessageView, Role, RoomId, RoomView, TenantId, Timestamp, UserId, WebhookEvent};
use chatapi_storage::Delivery;
use serde::Serialize;

/// What an endpoint is told, as it goes over the wire.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    event: &'static str,
    tenant_id: TenantId,
    #[serde(flatten)]
    about: About<'a>,
    at: Timestamp,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum About<'a> {
    /// A message for these of its room's members.
    New {
        room_id: RoomId,
        #[serde(skip_serializing_if = "Option::is_none")]
        recipient_id: Option<&'a UserId>,
        recipient_ids: &'a [UserId],
        room_metadata: Option<&'a Json>,
        message: MessageView<'a>,
    },
    Message {
        room_id: RoomId,
        room_metadata: Option<&'a Json>,
        message: MessageView<'a>,
    },
    /// The room as it is now; null if it is gone by now.
    Room {
        room_id: Option<RoomId>,
        room_metadata: Option<&'a Json>,
        room: Option<RoomView<'a>>,
    },
    Gone {
        room_id: Option<RoomId>,
    },
    Added {
        room_id: Option<RoomId>,
        user_ids: &'a [UserId],
        role: Option<Role>,
        room_metadata: Option<&'a Json>,
    },
    Removed {
        room_id: Option<RoomId>,
        user_id: Option<&'a UserId>,
        room_metadata: Option<&'a Json>,
    },
    User {
        user_id: Option<&'a UserId>,
    },
    Nothing {},
}

impl<'a> Body<'a> {
    /// What this delivery says; nothing if there is nothing to tell any more: the message is erased,
    /// or one that was new is deleted.
    #[must_use]
    pub fn of(delivery: &'a Delivery) -> Option<Self> {
        let Delivery { tenant_id, event, at, room_id, ref room, ref user_ids, role, .. } = *delivery;
        let room_metadata = room.as_ref().and_then(|room| room.metadata.as_ref());
        let user_id = user_ids.first();
        let about = match event {
            WebhookEvent::MessageNew => {
                let message = delivery.message.as_ref().filter(|message| message.deleted_at.is_none())?;
                About::New {
                    room_id: message.room_id,
                    recipient_id: user_id.filter(|_| user_ids.len() == 1),
                    recipient_ids: user_ids,
                    room_metadata,
                    message: message.into(),
                }
            }
            WebhookEvent::MessageSent | WebhookEvent::MessageEdited | WebhookEvent::MessageDeleted => {
                let message = delivery.message.as_ref()?;
                About::Message { room_id: message.room_id, room_metadata, message: message.into() }
            }
            WebhookEvent::RoomCreated | WebhookEvent::RoomUpdated => {
                About::Room { room_id, room_metadata, room: room.as_ref().map(RoomView::from) }
            }
            WebhookEvent::RoomDeleted => About::Gone { room_id },
            WebhookEvent::MemberAdded => About::Added { room_id, user_ids, role, room_metadata },
            WebhookEvent::MemberRemoved => About::Removed { room_id, user_id, room_metadata },
            WebhookEvent::PresenceOnline | WebhookEvent::PresenceOffline => About::User { user_id },
        };
        Some(Self { event: event.as_str(), tenant_id, about, at })
    }

    /// What an endpoint is told that is only to be tried.
    #[must_use]
    pub const fn ping(tenant_id: TenantId, at: Timestamp) -> Self {
        Self { event: "ping", tenant_id, about: About::Nothing {}, at }
    }
}
