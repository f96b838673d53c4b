//! `Idempotency-Key`: nothing is done twice, and the first answer is given again.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::access::Actor;
use chatapi_domain::{MessageView, RequestId, Timestamp};
use chatapi_storage::{Answer, Begun, Idempotency, Reservation};
use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use crate::call::Call;
use crate::dispatch::error_body;
use crate::error::{ApiError, Kind};
use crate::reply::Reply;

/// How long one waits for the answer of another who is at it, and how often one looks.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(25);

/// The key of a request, if it has one.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let right = (1..=255).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic());
    if right {
        Ok(Some(bare.to_owned()))
    } else {
        Err(ApiError::invalid("Idempotency-Key", "expected 1 to 255 visible ASCII characters"))
    }
}

/// Runs a request once: whoever comes again with the same key gets the first answer.
pub(crate) async fn once<F>(
    key: String,
    mut call: Call,
    request_id: &str,
    work: impl FnOnce(Call) -> F,
) -> Result<Reply, ApiError>
where
    F: Future<Output = Result<Reply, ApiError>>,
{
    let api = call.api.clone();
    let caller = call.caller.clone();
    let answers = match &caller {
        Some(caller) => api.store.tenant(caller.tenant.tenant_id).idempotency(),
        None => api.store.operator_idempotency(),
    };
    let user = call.actor()?.user().map(ToString::to_string);
    let request = Reservation {
        caller: user.unwrap_or_default(),
        path: call.path.clone(),
        key,
        fingerprint: Sha256::digest(&call.body).into(),
    };
    match begin(&answers, &request, call.now()).await? {
        Begun::Run(id) => call.subject = Some(id),
        Begun::Replay(answer) => return replay(&call, &answer).await,
        Begun::Reused => {
            let message = "This Idempotency-Key was used for another body";
            return Err(ApiError::new(Kind::IdempotencyKeyReused, message));
        }
        Begun::Busy => {
            let message = "Another request with this Idempotency-Key is still at work";
            return Err(ApiError::new(Kind::Conflict, message));
        }
    }
    let result = work(call).await;
    let kept = match &result {
        Ok(reply) => Some(reply.to_answer()),
        Err(error) => to_answer(error, request_id),
    };
    let noted = match kept {
        Some(answer) => answers.keep(&request, &answer).await,
        None => answers.release(&request).await,
    };
    // The work is done all the same. Whoever comes again finds it by its id, once the
    // reservation has lapsed.
    if let Err(error) = noted {
        tracing::warn!(%error, "An answer could not be kept for its Idempotency-Key");
    }
    result
}

async fn begin(answers: &Idempotency<'_>, request: &Reservation, now: Timestamp) -> Result<Begun, ApiError> {
    let fresh = *RequestId::new(now).as_uuid();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match answers.begin(request, fresh, now).await? {
            Begun::Busy if Instant::now() < deadline => sleep(PAUSE).await,
            begun => return Ok(begun),
        }
    }
}

/// An error that is an answer like any other; refused input, limits and our own faults are not
/// kept: the same request may succeed later.
fn to_answer(error: &ApiError, request_id: &str) -> Option<Answer> {
    match error.kind() {
        Kind::Forbidden | Kind::TenantSuspended | Kind::NotFound | Kind::Conflict => {
            let body = error_body(error, request_id);
            Some(Answer { status: error.kind().status().as_u16(), body: Some(body.to_vec()), shows: None })
        }
        Kind::InvalidRequest
        | Kind::Unauthorized
        | Kind::MethodNotAllowed
        | Kind::PayloadTooLarge
        | Kind::UnsupportedMediaType
        | Kind::UpgradeRequired
        | Kind::IdempotencyKeyReused
        | Kind::RateLimited
        | Kind::QuotaExceeded
        | Kind::Internal
        | Kind::Unavailable => None,
    }
}

/// The first answer again. If the message it showed was erased since, the message as it is now.
async fn replay(call: &Call, answer: &Answer) -> Result<Reply, ApiError> {
    if let Some(body) = &answer.body {
        return Ok(Reply::replayed(answer, Bytes::copy_from_slice(body)));
    }
    let Some(shows) = answer.shows else { return Ok(Reply::replayed(answer, Bytes::new())) };
    let message = call.store()?.messages().get(shows.room_id, &Actor::Tenant, shows.message_id).await?;
    let now = Reply::json(StatusCode::OK, &MessageView::from(&message))?;
    Ok(Reply::replayed(answer, now.body))
}
