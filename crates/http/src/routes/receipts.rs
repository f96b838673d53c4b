//! Receipts.

use chatapi_domain::{ReceiptKind, RoomId};
use serde::{Deserialize, Serialize};

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::views::{PositionsView, ReceiptView};

#[derive(Deserialize)]
struct AckBody {
    room_id: String,
    seq: i64,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// `POST /acks`
pub(crate) async fn ack(call: Call) -> Result<Reply, ApiError> {
    let user = call.user()?;
    let body: AckBody = call.json()?;
    let kind = body.kind.map_or(Ok(ReceiptKind::Delivered), |word| ReceiptKind::parse("type", &word))?;
    if body.seq < 0 {
        return Err(ApiError::invalid("seq", "expected a whole number of at least 0"));
    }
    let room: RoomId = body.room_id.parse().map_err(|_| ApiError::not_found("Room"))?;
    let advanced = call.store()?.receipts().advance(room, &user, body.seq, kind, call.now()).await?;
    Reply::ok(&PositionsView::new(room, advanced.positions))
}

/// `GET /rooms/{room_id}/receipts`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        receipts: Vec<ReceiptView<'a>>,
        next_cursor: Option<String>,
    }
    let (room, limit, after) = (call.id(0, "Room")?, call.limit()?, call.cursor()?);
    let receipts = call.store()?.receipts();
    let mut found = receipts.list(room, &call.actor()?, after.as_ref(), i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut found, limit, |receipt| receipt.user_id.clone());
    Reply::ok(&Page { receipts: found.iter().map(ReceiptView::from).collect(), next_cursor })
}
