//! A tenant's API keys: for the operator under `/admin/tenants/{tenant_id}`, for the tenant itself
//! under `/tenant`.

use chatapi_auth::ApiKey;
use chatapi_domain::{Grace, KeyId, KeyInfo, Name, TenantId, TenantKey, Timestamp};
use hyper::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Access;
use crate::views::{KeyView, NewKeyView};

/// Whose keys are meant, and where in the path the key stands.
fn target(call: &Call) -> Result<(TenantId, usize), ApiError> {
    match &call.caller {
        Some(caller) => Ok((caller.tenant.tenant_id, 0)),
        None => Ok((call.id(0, "Tenant")?, 1)),
    }
}

/// The tenant's state is read anew from now on, here at once.
fn outdate(call: &Call, tenant: TenantId) {
    call.api.verifier.outdate(tenant, crate::clock::now().monotonic);
}

/// `GET …/keys`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Page<'a> {
        keys: Vec<KeyView<'a>>,
        next_cursor: Option<String>,
    }
    let ((tenant, _), limit, after) = (target(&call)?, call.limit()?, call.cursor::<KeyId>()?);
    call.api.store.tenants().get(tenant).await?;
    let mut keys = call.api.store.keys().list(tenant, after.as_ref(), i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut keys, limit, |key| key.key_id.clone());
    Reply::ok(&Page { keys: keys.iter().map(KeyView::from).collect(), next_cursor })
}

#[derive(Deserialize, Default)]
struct CreateBody {
    name: Option<String>,
    expires_at: Option<String>,
}

/// `POST …/keys`
pub(crate) async fn create(call: Call) -> Result<Reply, ApiError> {
    let (tenant, _) = target(&call)?;
    let body: CreateBody = call.json_or_default()?;
    let name = body.name.map(|name| Name::parse("name", name)).transpose()?;
    let expiry = |at: String| TenantKey::parse_expiry("expires_at", &at, call.now());
    let expires_at = body.expires_at.map(expiry).transpose()?;
    let (key, stored) = new_key(&call, expires_at).await?;
    let made = call.api.store.keys().create(tenant, &stored, name.as_ref(), call.now()).await?;
    Ok(made_reply(&key, &made)?.about(tenant, &made.key_id))
}

#[derive(Deserialize, Default)]
struct RotateBody {
    grace_seconds: Option<i64>,
}

/// `POST …/keys/{key_id}/rotate`
pub(crate) async fn rotate(call: Call) -> Result<Reply, ApiError> {
    let (tenant, place) = target(&call)?;
    let old: KeyId = call.id(place, "Key")?;
    let body: RotateBody = call.json_or_default()?;
    let grace = body.grace_seconds.map(|seconds| Grace::parse("grace_seconds", seconds)).transpose()?;
    let ends = grace.unwrap_or_default().ends(call.now());
    let (key, stored) = new_key(&call, None).await?;
    let made = call.api.store.keys().rotate(tenant, &old, &stored, ends, call.now()).await?;
    outdate(&call, tenant);
    Ok(made_reply(&key, &made)?.about(tenant, &made.key_id))
}

/// `DELETE …/keys/{key_id}`
pub(crate) async fn revoke(call: Call) -> Result<Reply, ApiError> {
    let (tenant, place) = target(&call)?;
    let key: KeyId = call.id(place, "Key")?;
    // The operator may leave a tenant without a key; the tenant would lock itself out.
    let keep_one = call.caller.is_some();
    call.api.store.keys().revoke(tenant, &key, keep_one, call.now()).await?;
    outdate(&call, tenant);
    Ok(Reply::no_content())
}

async fn new_key(call: &Call, expires_at: Option<Timestamp>) -> Result<(ApiKey, TenantKey), ApiError> {
    let made = call.api.verifier.new_key(expires_at).await;
    made.map_err(|denied| ApiError::denied(denied, Access::Operator))
}

/// The new key, with its secret this once: what is kept for an `Idempotency-Key` has none.
fn made_reply(key: &ApiKey, made: &KeyInfo) -> Result<Reply, ApiError> {
    let exposed = key.expose();
    let shown = NewKeyView::new(made, Some(exposed.expose_secret()));
    Reply::json(StatusCode::CREATED, &shown)?.keeping(&NewKeyView::new(made, None))
}
