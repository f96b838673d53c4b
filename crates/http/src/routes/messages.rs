//! Messages of rooms.

use chatapi_domain::{
    ClientMessageId, Content, HistoryQuery, Json, MessageId, MessageView, NewMessage, Order, RoomId, Settings, UserId,
};
use chatapi_storage::Shows;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::present;
use crate::call::Call;
use crate::error::ApiError;
use crate::pages::PageKey;
use crate::reply::Reply;
use crate::views::ChangeView;

/// What a message is sent with.
#[derive(Debug, Deserialize)]
pub struct SendBody {
    pub(crate) content: String,
    pub(crate) meta: Option<Box<RawValue>>,
    pub(crate) client_message_id: Option<String>,
    pub(crate) reply_to: Option<String>,
}

impl SendBody {
    /// The message to be stored under this id.
    pub(crate) fn into_message(
        self,
        message_id: MessageId,
        room_id: RoomId,
        sender_id: UserId,
        settings: &Settings,
    ) -> Result<NewMessage, ApiError> {
        let no_message = |_| ApiError::invalid("reply_to", "expected the message_id of a message of this room");
        Ok(NewMessage {
            message_id,
            room_id,
            sender_id,
            content: Content::parse(self.content, settings.max_message_bytes)?,
            meta: Json::parse("meta", self.meta)?,
            client_message_id: self.client_message_id.map(ClientMessageId::parse).transpose()?,
            reply_to: self.reply_to.map(|id| id.parse().map_err(no_message)).transpose()?,
        })
    }
}

/// `POST /rooms/{room_id}/messages`
pub(crate) async fn send(call: Call) -> Result<Reply, ApiError> {
    let (sender_id, room_id) = (call.user()?, call.id(0, "Room")?);
    let body: SendBody = call.json()?;
    let message_id = call.subject.map_or_else(|| MessageId::new(call.now()), MessageId::from_uuid);
    let new = body.into_message(message_id, room_id, sender_id, call.settings()?)?;
    let appended = call.messages()?.append(new).await?;
    if appended.created {
        call.api.metrics.messages_sent.inc();
    }
    let shows = Shows { room_id, message_id: appended.message.message_id };
    Ok(Reply::made(appended.created, &MessageView::from(&appended.message))?.showing(shows))
}

/// `GET /rooms/{room_id}/messages`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        messages: Vec<MessageView<'a>>,
        has_more: bool,
    }
    let order = match call.parameter("order").as_deref() {
        None | Some("asc") => Order::Ascending,
        Some("desc") => Order::Descending,
        Some(_) => return Err(ApiError::invalid("order", "expected 'asc' or 'desc'")),
    };
    let (after_seq, before_seq) = (call.number("after_seq")?, call.number("before_seq")?);
    let query = HistoryQuery { after_seq, before_seq, order, limit: call.limit()? };
    let (store, room_id, actor) = (call.store()?, call.id(0, "Room")?, call.actor()?);
    let caller = call.caller()?;
    let epoch = call.api.verifier.epoch(caller);
    let key = PageKey { tenant_id: caller.tenant.tenant_id, epoch, room_id, query };
    // While nothing is heard of the tenant's end, nothing is remembered of it.
    if call.api.store.feed().is_listening()
        && let Some(page) = call.api.pages.get(&key)
        && page.is_right(store.rooms().extent(room_id, &actor).await?)
    {
        return Ok(Reply::page(page.body));
    }
    let (history, extent) = store.messages().history_at(room_id, &actor, &key.query).await?;
    let messages = history.messages.iter().map(MessageView::from).collect();
    let reply = Reply::ok(&Page { messages, has_more: history.has_more })?;
    call.api.pages.keep(key, reply.body.clone(), extent, history.has_more);
    Ok(reply)
}

/// `GET /rooms/{room_id}/messages/{message_id}`
pub(crate) async fn get(call: Call) -> Result<Reply, ApiError> {
    let (room, message) = place(&call)?;
    let message = call.store()?.messages().get(room, &call.actor()?, message).await?;
    Reply::ok(&MessageView::from(&message))
}

fn place(call: &Call) -> Result<(RoomId, MessageId), ApiError> {
    Ok((call.id(0, "Room")?, call.id(1, "Message")?))
}

#[derive(Deserialize)]
struct EditBody {
    content: String,
    #[serde(default, deserialize_with = "present")]
    meta: Option<Option<Box<RawValue>>>,
}

/// `PUT /rooms/{room_id}/messages/{message_id}`
pub(crate) async fn edit(call: Call) -> Result<Reply, ApiError> {
    let (editor, (room, message)) = (call.user()?, place(&call)?);
    let body: EditBody = call.json()?;
    let content = Content::parse(body.content, call.settings()?.max_message_bytes)?;
    let meta = body.meta.map(|meta| Json::parse("meta", meta)).transpose()?;
    let messages = call.store()?.messages();
    let message = messages.edit(room, &editor, message, &content, meta.as_ref(), call.now()).await?;
    Reply::ok(&MessageView::from(&message))
}

/// `DELETE /rooms/{room_id}/messages/{message_id}`
pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    let (eraser, (room, message)) = (call.user()?, place(&call)?);
    call.store()?.messages().erase(room, &eraser, message, call.now()).await?;
    Ok(Reply::no_content())
}

/// `GET /rooms/{room_id}/changes`
pub(crate) async fn changes(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        messages: Vec<ChangeView<'a>>,
        next_after: i64,
        has_more: bool,
    }
    let (after, limit) = (call.number("after")?.unwrap_or(0), i64::from(call.limit()?));
    let page = call.store()?.messages().changes(call.id(0, "Room")?, &call.actor()?, after, limit).await?;
    let next_after = page.messages.last().map_or(after, |last| last.change);
    let messages = page.messages.iter().map(ChangeView::from).collect();
    Reply::ok(&Page { messages, next_after, has_more: page.has_more })
}
