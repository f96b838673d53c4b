//! User tokens, and tickets for sockets.

use chatapi_domain::{Timestamp, UserId};
use hyper::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::present;
use crate::call::Call;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Access;

/// How long a token is good, in seconds: at least, at most, and where nothing is said.
const SHORTEST: i64 = 60;
const LONGEST: i64 = 30 * 24 * 60 * 60;
const USUAL: i64 = 60 * 60;

/// How long a ticket is good, in seconds.
const TICKET: u32 = 60;

#[derive(Deserialize)]
struct CreateBody {
    user_id: String,
    expires_in: Option<i64>,
}

/// `POST /tokens`
pub(crate) async fn create(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Created<'a> {
        token: &'a str,
        user_id: &'a UserId,
        expires_at: Timestamp,
    }
    let body: CreateBody = call.json()?;
    let user_id = UserId::parse("user_id", body.user_id)?;
    let seconds = body.expires_in.unwrap_or(USUAL);
    let fits = (SHORTEST..=LONGEST).contains(&seconds).then(|| u32::try_from(seconds).ok()).flatten();
    let seconds =
        fits.ok_or_else(|| ApiError::invalid("expires_in", format!("expected {SHORTEST} to {LONGEST} seconds")))?;
    let issued = call.api.verifier.issue_token(call.caller()?, user_id.clone(), seconds, call.now).await;
    let (token, expires_at) = issued.map_err(|denied| ApiError::denied(denied, Access::Backend))?;
    Reply::json(StatusCode::CREATED, &Created { token: token.expose_secret(), user_id: &user_id, expires_at })
}

#[derive(Deserialize)]
struct RevokeBody {
    #[serde(default, deserialize_with = "present")]
    user_id: Option<Option<String>>,
}

/// `POST /tokens/revoke`
pub(crate) async fn revoke(call: Call) -> Result<Reply, ApiError> {
    let body: RevokeBody = call.json()?;
    // A `null` is a user that somebody forgot to name: not all of them.
    let named = |user: Option<String>| {
        let user = user.ok_or_else(|| ApiError::invalid("user_id", "expected a string; leave it out to revoke all"))?;
        Ok::<_, ApiError>(UserId::parse("user_id", user)?)
    };
    let user = body.user_id.map(named).transpose()?;
    call.store()?.tokens().revoke(user.as_ref(), call.now()).await?;
    // Here at once; elsewhere as soon as it is told.
    call.api.verifier.outdate(call.caller()?.tenant.tenant_id, crate::clock::now().monotonic);
    Ok(Reply::no_content())
}

/// `POST /ws/token`
pub(crate) async fn ticket(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Issued<'a> {
        token: &'a str,
        expires_in: u32,
    }
    let user = call.user()?;
    let issued = call.api.verifier.issue_ticket(call.caller()?, user, TICKET, call.now).await;
    let token = issued.map_err(|denied| ApiError::denied(denied, Access::Tenant))?;
    Reply::ok(&Issued { token: token.expose_secret(), expires_in: TICKET })
}
