//! What a client may ask over its connection.

use std::sync::Arc;

use bytes::Bytes;
use chatapi_auth::{Caller, Credential};
use chatapi_domain::{MessageId, MessageView, NewMessage, ReceiptKind, RoomId, Timestamp};
use chatapi_realtime::{Fetch, Since, Sync, Wanted};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::session::{Connection, Done, Work};
use crate::body;
use crate::clock;
use crate::error::{ApiError, Kind};
use crate::routes::messages::SendBody;
use crate::views::PositionsView;

/// The longest `request_id`.
const MAX_REQUEST_ID: usize = 64;

/// The most rooms one `sync` may name.
const MAX_SYNCED: usize = 10_000;

/// A command, before its fields are looked at.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    request_id: Option<String>,
    data: Option<Box<RawValue>>,
}

/// What follows from a command.
pub(super) enum Then {
    /// This is the answer.
    Answer(Option<Bytes>),
    /// The answer comes when this is done.
    Work(Work),
    /// Its rooms are read until this sync is done.
    Sync(Sync, Option<Fetch>),
    /// This message is to be stored.
    Send(Box<NewMessage>),
}

/// A command's `request_id`, as far as it can be read: for its answer, whatever that is.
pub(super) fn request_id(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        request_id: Option<String>,
    }
    let id = serde_json::from_str::<Id>(text).ok()?.request_id;
    id.filter(|id| id.chars().count() <= MAX_REQUEST_ID)
}

/// Whether a command sends a message, as far as can be read.
pub(super) fn is_send(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", borrow)]
        kind: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<Kind<'_>>(text).is_ok_and(|command| command.kind == "send_message")
}

#[derive(Deserialize)]
struct RoomCommand {
    room_id: String,
}

impl RoomCommand {
    fn room(&self) -> Result<RoomId, ApiError> {
        parse_room(&self.room_id)
    }
}

fn parse_room(id: &str) -> Result<RoomId, ApiError> {
    id.parse().map_err(|_| ApiError::not_found("Room"))
}

#[derive(Deserialize)]
struct AckCommand {
    room_id: String,
    seq: i64,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct SendCommand {
    room_id: String,
    content: String,
    meta: Option<Box<RawValue>>,
    client_message_id: Option<String>,
    reply_to: Option<String>,
}

#[derive(Serialize)]
struct Sent<'a> {
    message: MessageView<'a>,
}

#[derive(Deserialize)]
struct SyncCommand {
    rooms: Option<std::collections::BTreeMap<String, SinceCommand>>,
}

#[derive(Deserialize)]
struct SinceCommand {
    after_seq: i64,
    after_change: Option<i64>,
}

#[derive(Deserialize)]
struct RefreshCommand {
    token: String,
}

/// `{"type": "ok", "request_id": …}` with more fields, if a `request_id` was given.
pub(super) fn ok(request_id: Option<&str>, more: &impl Serialize) -> Result<Option<Bytes>, ApiError> {
    #[derive(Serialize)]
    struct Ok<'a, T> {
        #[serde(rename = "type")]
        kind: &'static str,
        request_id: &'a str,
        #[serde(flatten)]
        more: &'a T,
    }
    let Some(request_id) = request_id else { return Ok(None) };
    let text = serde_json::to_vec(&Ok { kind: "ok", request_id, more }).map_err(ApiError::internal)?;
    Ok(Some(text.into()))
}

/// What a command that fails is answered.
pub(super) fn error(request_id: Option<&str>, error: &ApiError) -> Bytes {
    #[derive(Serialize)]
    struct Failure<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        request_id: Option<&'a str>,
        code: &'static str,
        message: &'a str,
    }
    let failure = Failure { kind: "error", request_id, code: error.kind().code(), message: error.message() };
    serde_json::to_vec(&failure).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Nothing {}

impl Connection {
    /// Begins what a command asks for.
    pub(super) fn begin(&mut self, text: &str, request_id: Option<&str>) -> Result<Then, ApiError> {
        let envelope: Envelope = body::from_json(text.as_bytes())?;
        if envelope.request_id.is_some_and(|id| id.chars().count() > MAX_REQUEST_ID) {
            return Err(ApiError::invalid("request_id", "expected at most 64 characters"));
        }
        if request_id.is_some_and(|id| id.contains('\0')) {
            return Err(ApiError::invalid("request_id", "may not contain the character U+0000"));
        }
        if envelope.data.as_deref().is_some_and(|data| !data.get().starts_with('{') && data.get() != "null") {
            return Err(ApiError::invalid("data", "expected an object"));
        }
        // A command's fields stand at its top or under `data`.
        let fields =
            envelope.data.as_deref().filter(|data| data.get() != "null").map_or(text, RawValue::get).as_bytes();
        let answer = |more: Result<Option<Bytes>, ApiError>| more.map(Then::Answer);
        match envelope.kind.as_str() {
            "send_message" => self.send_message(body::from_json(fields)?),
            "ack" => self.ack(body::from_json(fields)?, request_id),
            "typing.start" | "typing.stop" => {
                let command: RoomCommand = body::from_json(fields)?;
                self.session.typing(command.room()?, envelope.kind == "typing.start")?;
                answer(ok(request_id, &Nothing {}))
            }
            "subscribe" => {
                let subscribing = self.session.subscribe(body::from_json::<RoomCommand>(fields)?.room()?);
                let id = request_id.map(str::to_owned);
                Ok(Then::Work(Box::pin(async move {
                    let done = subscribing.await.map_err(ApiError::from);
                    Done::Answer(id.clone(), done.and_then(|()| ok(id.as_deref(), &Nothing {})))
                })))
            }
            "unsubscribe" => {
                self.session.unsubscribe(body::from_json::<RoomCommand>(fields)?.room()?);
                answer(ok(request_id, &Nothing {}))
            }
            "sync" => {
                let (sync, fetch) = self.session.sync(wanted(body::from_json(fields)?)?);
                Ok(Then::Sync(sync, fetch))
            }
            "refresh" => self.refresh(body::from_json(fields)?, request_id),
            "ping" => {
                #[derive(Serialize)]
                struct Pong<'a> {
                    #[serde(rename = "type")]
                    kind: &'static str,
                    #[serde(skip_serializing_if = "Option::is_none")]
                    request_id: Option<&'a str>,
                }
                let pong = serde_json::to_vec(&Pong { kind: "pong", request_id }).map_err(ApiError::internal)?;
                Ok(Then::Answer(Some(pong.into())))
            }
            other => {
                let known =
                    "send_message, ack, typing.start, typing.stop, subscribe, unsubscribe, sync, refresh or ping";
                let shown: String = other.chars().take(40).collect();
                Err(ApiError::invalid("type", format!("expected {known}, not '{shown}'")))
            }
        }
    }

    fn send_message(&self, command: SendCommand) -> Result<Then, ApiError> {
        let SendCommand { room_id, content, meta, client_message_id, reply_to } = command;
        let body = SendBody { content, meta, client_message_id, reply_to };
        let (id, user) = (MessageId::new(clock::now().wall), self.session.user_id().clone());
        let new = body.into_message(id, parse_room(&room_id)?, user, &self.caller.settings)?;
        Ok(Then::Send(Box::new(new)))
    }

    /// Stores messages in the order they were sent in; those that came while the last ones were
    /// under way go together.
    pub(super) fn store(&self, queued: Vec<(Option<String>, NewMessage)>) -> Work {
        let (api, caller) = (self.api.clone(), self.caller.clone());
        let storing = self.api.tasks.spawn(async move {
            let (ids, news): (Vec<_>, Vec<_>) = queued.into_iter().unzip();
            let chat = api.store.tenant(caller.tenant.tenant_id).announcing(caller.settings.webhook_events);
            let messages = chat.messages().metered(caller.meter(), caller.settings.monthly_message_quota);
            let results = messages.append_all(news).await;
            let answers = ids.into_iter().zip(results).map(|(id, sent)| {
                let answer = sent.map_err(ApiError::from).and_then(|sent| {
                    if sent.created {
                        api.metrics.messages_sent.inc();
                    }
                    ok(id.as_deref(), &Sent { message: (&sent.message).into() })
                });
                (id, answer)
            });
            answers.collect()
        });
        Box::pin(async move {
            Done::Answers(storing.await.unwrap_or_else(|error| vec![(None, Err(ApiError::internal(error)))]))
        })
    }

    fn ack(&self, command: AckCommand, request_id: Option<&str>) -> Result<Then, ApiError> {
        let kind = command.kind.map_or(Ok(ReceiptKind::Delivered), |word| ReceiptKind::parse("kind", &word))?;
        if command.seq < 0 {
            return Err(ApiError::invalid("seq", "expected a whole number of at least 0"));
        }
        let (room, seq) = (parse_room(&command.room_id)?, command.seq);
        let (api, tenant, id) = (self.api.clone(), self.caller.tenant.tenant_id, request_id.map(str::to_owned));
        let user = self.session.user_id().clone();
        let moving = self.api.tasks.spawn(async move {
            let receipts = api.store.tenant(tenant).receipts();
            let advanced = receipts.advance(room, &user, seq, kind, clock::now().wall).await.map_err(ApiError::from);
            let view = |positions| PositionsView::new(room, positions);
            Done::Answer(id.clone(), advanced.and_then(|done| ok(id.as_deref(), &view(done.positions))))
        });
        Ok(Then::Work(Box::pin(async move {
            moving.await.unwrap_or_else(|error| Done::Answer(None, Err(ApiError::internal(error))))
        })))
    }

    fn refresh(&self, command: RefreshCommand, request_id: Option<&str>) -> Result<Then, ApiError> {
        if matches!(self.caller.credential, Credential::Key { .. }) {
            let message = "This connection was opened with an API key, which does not expire by itself";
            return Err(ApiError::new(Kind::InvalidRequest, message));
        }
        let (api, caller, peer) = (self.api.clone(), self.caller.clone(), self.peer);
        let id = request_id.map(str::to_owned);
        Ok(Then::Work(Box::pin(async move {
            let fresh = api.verifier.user(&command.token, peer, clock::now()).await;
            let fresh = fresh.map_err(|denied| ApiError::denied(denied, crate::route::Access::Socket));
            Done::Refreshed(id, fresh.and_then(|fresh| same_user(&caller, fresh)))
        })))
    }
}

fn same_user(before: &Caller, fresh: Arc<Caller>) -> Result<Arc<Caller>, ApiError> {
    let issued = |caller: &Caller| match &caller.credential {
        Credential::Token { issued_at, .. } => Some(*issued_at),
        Credential::Key { .. } => None,
    };
    if issued(&fresh) < issued(before) {
        return Err(ApiError::invalid("token", "expected one that is newer than the connection's own"));
    }
    let same = fresh.tenant.tenant_id == before.tenant.tenant_id && fresh.credential.user() == before.credential.user();
    if same { Ok(fresh) } else { Err(ApiError::new(Kind::Forbidden, "The token is another user's")) }
}

/// The answer to a `refresh`.
pub(super) fn refreshed(request_id: Option<&str>, expires_at: Option<Timestamp>) -> Result<Option<Bytes>, ApiError> {
    #[derive(Serialize)]
    struct Refreshed {
        expires_at: Option<Timestamp>,
    }
    ok(request_id, &Refreshed { expires_at })
}

fn wanted(command: SyncCommand) -> Result<Wanted, ApiError> {
    let Some(rooms) = command.rooms else { return Ok(Wanted::All) };
    if rooms.len() > MAX_SYNCED {
        return Err(ApiError::invalid("rooms", format!("expected at most {MAX_SYNCED} rooms")));
    }
    let mut named = Vec::with_capacity(rooms.len());
    for (name, since) in rooms {
        let path = |field: &str| format!("rooms.{name}.{field}");
        let at_least_0 = "expected a whole number of at least 0";
        if since.after_seq < 0 {
            return Err(ApiError::invalid(path("after_seq"), at_least_0));
        }
        if since.after_change.is_some_and(|change| change < 0) {
            return Err(ApiError::invalid(path("after_change"), at_least_0));
        }
        let room = name.parse().ok();
        named.push((name, room, Since { after_seq: since.after_seq, after_change: since.after_change }));
    }
    Ok(Wanted::Named(named))
}
