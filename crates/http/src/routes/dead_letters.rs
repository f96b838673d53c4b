//! What endpoints could not be told.

use chatapi_delivery::Body;
use chatapi_domain::{EventId, TenantId, Timestamp};
use chatapi_storage::{DeadLetter, DeadLetters};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::json;

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;

#[derive(Serialize)]
struct LetterView<'a> {
    id: EventId,
    tenant_id: TenantId,
    event: &'static str,
    at: Timestamp,
    attempts: u32,
    last_status: Option<u16>,
    last_error: &'a str,
    failed_at: Timestamp,
    /// What would be told; null if there is nothing to tell any more.
    body: Option<Body<'a>>,
}

impl<'a> From<&'a DeadLetter> for LetterView<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        let DeadLetter { delivery, failure, failed_at } = letter;
        Self {
            id: delivery.event_id,
            tenant_id: delivery.tenant_id,
            event: delivery.event.as_str(),
            at: delivery.at,
            attempts: delivery.attempts,
            last_status: failure.status,
            last_error: &failure.error,
            failed_at: *failed_at,
            body: Body::of(delivery),
        }
    }
}

/// The caller's own; the operator's are all, or those of the tenant that it names.
fn of(call: &Call) -> Result<DeadLetters<'_>, ApiError> {
    if let Some(caller) = &call.caller {
        return Ok(call.api.store.tenant(caller.tenant.tenant_id).dead_letters());
    }
    match call.parameter("tenant_id") {
        Some(id) => {
            let tenant = id.parse().map_err(|_| ApiError::invalid("tenant_id", "expected the id of a tenant"))?;
            Ok(call.api.store.tenant(tenant).dead_letters())
        }
        None => Ok(call.api.store.dead_letters()),
    }
}

/// `GET /admin/dead-letters`: the newest event first.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    /// Not a `Value`: metadata goes through to the letter.
    #[derive(Serialize)]
    struct Page<'a> {
        dead_letters: Vec<LetterView<'a>>,
        next_cursor: Option<String>,
    }
    let limit = call.limit()?;
    let mut letters = of(&call)?.list(call.cursor()?, i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut letters, limit, |letter| letter.delivery.event_id);
    Reply::ok(&Page { dead_letters: letters.iter().map(LetterView::from).collect(), next_cursor })
}

/// `POST /admin/dead-letters/{id}/retry`
pub(crate) async fn retry(call: Call) -> Result<Reply, ApiError> {
    let id: EventId = call.id(0, "Dead letter")?;
    let tenant_id = of(&call)?.retry(id).await?;
    Ok(Reply::json(StatusCode::ACCEPTED, &json!({ "id": id, "tenant_id": tenant_id }))?.about(tenant_id, id))
}
