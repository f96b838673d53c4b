//! Trying out a tenant's endpoint.

use chatapi_delivery::NotTried;
use serde::Serialize;

use crate::call::Call;
use crate::error::{ApiError, Kind};
use crate::reply::Reply;

#[derive(Serialize)]
struct AnswerView<'a> {
    delivered: bool,
    status: Option<u16>,
    body: &'a str,
    error: Option<&'a str>,
    elapsed_ms: u64,
}

/// `POST /tenant/webhook/test`: what the endpoint answers to a `ping`, also one that is disabled.
pub(crate) async fn test(call: Call) -> Result<Reply, ApiError> {
    // As it is now: what this node remembers may be a second old.
    let tenant = call.api.store.tenants().get(call.caller()?.tenant.tenant_id).await?;
    let answer = call.api.dispatcher.try_out(&tenant, call.now()).await;
    let answer = answer.map_err(|why| match why {
        NotTried::NoEndpoint => ApiError::new(Kind::Conflict, "The tenant has no webhook_url"),
        NotTried::Busy => ApiError::rate_limited("The endpoint is being tried out already", 0),
    })?;
    Reply::ok(&AnswerView {
        delivered: answer.is_success(),
        status: answer.status,
        body: &answer.body,
        error: answer.error.as_deref(),
        elapsed_ms: u64::try_from(answer.elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}
