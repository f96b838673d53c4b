//! A tenant's API keys: for the operator under `/admin/tenants/{tenant_id}`, for the tenant itself
//! under `/tenant`.

use chatapi_auth::ApiKey;
use chatapi_domain::{KeyId, KeyInfo, Name, TenantId, TenantKey, Timestamp};
use hyper::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Access;
use crate::views::KeyView;

/// How long a rotated key goes on, in seconds: at most, and where nothing is said.
const LONGEST_GRACE: i64 = 604_800;
const USUAL_GRACE: i64 = 86_400;

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
    let expires_at = body.expires_at.map(|at| Timestamp::parse("expires_at", &at)).transpose()?;
    if expires_at.is_some_and(|at| at <= call.now()) {
        return Err(ApiError::invalid("expires_at", "expected a time in the future"));
    }
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
    let grace = body.grace_seconds.unwrap_or(USUAL_GRACE);
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(ApiError::invalid("grace_seconds", format!("expected 0 to {LONGEST_GRACE} seconds")));
    }
    let (key, stored) = new_key(&call, None).await?;
    let ends = call.now().plus_seconds(grace);
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
    let made = call.api.verifier.new_key().await;
    let (key, secret_hash) = made.map_err(|denied| ApiError::denied(denied, Access::Operator))?;
    let stored = TenantKey { key_id: key.key_id().clone(), secret_hash, expires_at, revoked_at: None };
    Ok((key, stored))
}

/// The new key, with its secret this once: what is kept for an `Idempotency-Key` has none.
fn made_reply(key: &ApiKey, made: &KeyInfo) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Made<'a> {
        #[serde(flatten)]
        key: KeyView<'a>,
        api_key: Option<&'a str>,
    }
    let exposed = key.expose();
    let shown = Made { key: made.into(), api_key: Some(exposed.expose_secret()) };
    Reply::json(StatusCode::CREATED, &shown)?.keeping(&Made { key: made.into(), api_key: None })
}
