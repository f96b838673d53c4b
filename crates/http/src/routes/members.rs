//! Members of rooms.

use chatapi_domain::access::Actor;
use chatapi_domain::{Member, Role, RoomId, RoomView};
use serde::{Deserialize, Serialize};

use super::rooms::users;
use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::views::MemberView;

#[derive(Serialize)]
struct Page<'a> {
    members: Vec<MemberView<'a>>,
    next_cursor: Option<String>,
}

/// `GET /rooms/{room_id}/members`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let (room, limit, after) = (call.id(0, "Room")?, call.limit()?, call.cursor()?);
    let members = call.store()?.members().list(room, &call.actor()?, after.as_ref(), i64::from(limit) + 1).await?;
    page(members, limit)
}

fn page(mut members: Vec<Member>, limit: u32) -> Result<Reply, ApiError> {
    let next_cursor = paged(&mut members, limit, |member| member.user_id.clone());
    Reply::ok(&Page { members: members.iter().map(MemberView::from).collect(), next_cursor })
}

#[derive(Deserialize)]
struct AddBody {
    user_ids: Vec<String>,
    role: Option<String>,
}

/// `POST /rooms/{room_id}/members`: answers with the room's members, as the list does.
pub(crate) async fn add(call: Call) -> Result<Reply, ApiError> {
    const PAGE: u32 = 100;
    let room: RoomId = call.id(0, "Room")?;
    let body: AddBody = call.json()?;
    let max_members = call.settings()?.max_room_members;
    if body.user_ids.is_empty() || body.user_ids.len() > max_members as usize {
        return Err(ApiError::invalid("user_ids", format!("expected 1 to {max_members} users")));
    }
    let users = users("user_ids", body.user_ids)?;
    let role = body.role.map_or(Ok(Role::Member), |word| Role::parse(&word))?;
    let (members, actor) = (call.store()?.members(), call.actor()?);
    members.add(room, &actor, &users, role, max_members, call.now()).await?;
    page(members.list(room, &actor, None, i64::from(PAGE) + 1).await?, PAGE)
}

#[derive(Deserialize)]
struct UpdateBody {
    role: String,
}

/// `PATCH /rooms/{room_id}/members/{user_id}`
pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let (room, user) = (call.id(0, "Room")?, call.member(1)?);
    let body: UpdateBody = call.json()?;
    let role = Role::parse(&body.role)?;
    let member = call.store()?.members().set_role(room, &call.actor()?, &user, role).await?;
    Reply::ok(&MemberView::from(&member))
}

/// `DELETE /rooms/{room_id}/members/{user_id}`
pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let (room, user) = (call.id(0, "Room")?, call.member(1)?);
    call.store()?.members().remove(room, &call.actor()?, &user, call.now()).await?;
    call.api.hub.cut(call.caller()?.tenant.tenant_id, room, &user).await;
    Ok(Reply::no_content())
}

/// `POST /rooms/{room_id}/join`
pub(crate) async fn join(call: Call) -> Result<Reply, ApiError> {
    let (user, room) = (call.user()?, call.id(0, "Room")?);
    let max_members = call.settings()?.max_room_members;
    let room = call.store()?.members().join(room, &user, max_members, call.now()).await?;
    Reply::ok(&RoomView::from(&room))
}

/// `POST /rooms/{room_id}/leave`
pub(crate) async fn leave(call: Call) -> Result<Reply, ApiError> {
    let (user, room) = (call.user()?, call.id(0, "Room")?);
    call.store()?.members().remove(room, &Actor::User(user.clone()), &user, call.now()).await?;
    call.api.hub.cut(call.caller()?.tenant.tenant_id, room, &user).await;
    Ok(Reply::no_content())
}
