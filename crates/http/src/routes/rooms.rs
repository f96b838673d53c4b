//! Rooms.

use chatapi_domain::{Invalid, Json, Listed, Name, NewRoom, RoomId, RoomPatch, RoomType, RoomView, Roster, UserId};
use chatapi_storage::RoomCursor;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::present;
use crate::call::{Call, paged};
use crate::error::{ApiError, Kind};
use crate::reply::Reply;
use crate::views::ListedView;

#[derive(Deserialize)]
struct CreateBody {
    #[serde(rename = "type")]
    room_type: String,
    members: Option<Vec<String>>,
    name: Option<String>,
    metadata: Option<Box<RawValue>>,
}

/// `POST /rooms`
pub(crate) async fn create(call: Call) -> Result<Reply, ApiError> {
    let body: CreateBody = call.json()?;
    let creator = call.actor()?.user().cloned();
    let room_type = RoomType::parse("type", &body.room_type)?;
    let named = users("members", body.members.unwrap_or_default())?;
    if let (RoomType::Dm, Some(own)) = (room_type, call.token_user())
        && !named.contains(own)
    {
        return Err(ApiError::new(Kind::Forbidden, "A user may open only a dm of its own"));
    }
    let max_members = call.settings()?.max_room_members;
    let new = NewRoom {
        room_type,
        name: body.name.map(|name| Name::parse("name", name)).transpose()?,
        metadata: Json::parse("metadata", body.metadata)?,
        roster: Roster::new(room_type, named, creator.as_ref(), max_members)?,
        created_by: creator,
    };
    let room_id = call.subject.map_or_else(|| RoomId::new(call.now()), RoomId::from_uuid);
    let (room, created) = call.store()?.rooms().create(room_id, &new, call.now()).await?;
    // The same id again is the same request again, after a crash.
    Reply::made(created || room.room_id == room_id, &RoomView::from(&room))
}

/// The users that a list in a body names; an error names the item.
pub(crate) fn users(field: &str, names: Vec<String>) -> Result<Vec<UserId>, Invalid> {
    let parse = |(at, name)| UserId::parse(&format!("{field}[{at}]"), name);
    names.into_iter().enumerate().map(parse).collect()
}

/// `GET /rooms`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        rooms: Vec<ListedView<'a>>,
        next_cursor: Option<String>,
    }
    let limit = call.limit()?;
    let room_type = match call.parameter("type") {
        Some(word) => Some(RoomType::parse("type", &word)?),
        None => None,
    };
    let rooms = call.store()?.rooms();
    let mut listed = rooms.list(&call.actor()?, room_type, call.cursor()?, i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut listed, limit, place);
    Reply::ok(&Page { rooms: listed.iter().map(ListedView::from).collect(), next_cursor })
}

fn place(listed: &Listed) -> RoomCursor {
    RoomCursor { active_at: listed.active_at, room_id: listed.room.room_id }
}

/// `GET /rooms/{room_id}`
pub(crate) async fn get(call: Call) -> Result<Reply, ApiError> {
    let room = call.store()?.rooms().get(call.id(0, "Room")?, &call.actor()?).await?;
    Reply::ok(&RoomView::from(&room))
}

#[derive(Deserialize)]
struct UpdateBody {
    #[serde(default, deserialize_with = "present")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Option<Box<RawValue>>>,
}

/// `PATCH /rooms/{room_id}`
pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let room = call.id(0, "Room")?;
    let body: UpdateBody = call.json()?;
    let name = body.name.map(|name| name.map(|name| Name::parse("name", name)).transpose()).transpose()?;
    let metadata = body.metadata.map(|value| Json::parse("metadata", value)).transpose()?;
    let patch = RoomPatch { name, metadata };
    let room = call.store()?.rooms().update(room, &call.actor()?, &patch, call.now()).await?;
    Reply::ok(&RoomView::from(&room))
}

/// `DELETE /rooms/{room_id}`
pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    call.store()?.rooms().delete(call.id(0, "Room")?, &call.actor()?, call.now()).await?;
    Ok(Reply::no_content())
}
