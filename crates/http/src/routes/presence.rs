//! Who is online.

use std::collections::BTreeMap;

use chatapi_domain::{Timestamp, UserId};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::call::Call;
use crate::error::ApiError;
use crate::reply::Reply;

/// The most users one request may ask for.
const MAX_USERS: usize = 100;

#[derive(Serialize)]
struct StatusView {
    status: &'static str,
    last_seen_at: Option<Timestamp>,
}

/// `GET /presence?user_ids=a,b`
pub(crate) async fn of(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Presence<'a> {
        presence: BTreeMap<&'a str, StatusView>,
    }
    let users = users(&call)?;
    // A tenant that shows no presence is told that nobody is there.
    let shown = call.settings()?.presence;
    let statuses = if shown { call.store()?.presence().of(&users).await? } else { Vec::new() };
    let mut presence: BTreeMap<&str, StatusView> = BTreeMap::new();
    for user in &users {
        presence.insert(user.as_str(), StatusView { status: "offline", last_seen_at: None });
    }
    for status in &statuses {
        let word = if status.online { "online" } else { "offline" };
        presence.insert(status.user_id.as_str(), StatusView { status: word, last_seen_at: status.last_seen_at });
    }
    Reply::ok(&Presence { presence })
}

/// The comma list of the query. It is cut at bare commas before it is decoded: one inside an id
/// is written `%2C`.
fn users(call: &Call) -> Result<Vec<UserId>, ApiError> {
    let wrong = || ApiError::invalid("user_ids", format!("expected 1 to {MAX_USERS} user ids, joined by commas"));
    let list = call.raw_parameter("user_ids").filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let mut users = Vec::new();
    for (at, part) in list.split(',').enumerate() {
        if at >= MAX_USERS {
            return Err(wrong());
        }
        let text = percent_decode_str(part).decode_utf8().map_err(|_| wrong())?;
        users.push(UserId::parse(&format!("user_ids[{at}]"), text)?);
    }
    users.sort();
    users.dedup();
    Ok(users)
}
