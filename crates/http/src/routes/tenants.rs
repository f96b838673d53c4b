//! Tenants.

use chatapi_domain::{Config, Name, Tenant, TenantId, TenantKey, TenantStatus};
use hyper::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Call, paged};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::Access;
use crate::views::{NewKeyView, NewTenantView, TenantView};

#[derive(Deserialize)]
struct CreateBody {
    name: String,
    config: Option<Value>,
}

/// `POST /admin/tenants`
pub(crate) async fn create(call: Call) -> Result<Reply, ApiError> {
    let body: CreateBody = call.json()?;
    let verifier = &call.api.verifier;
    let tenant = Tenant {
        tenant_id: call.subject.map_or_else(|| TenantId::new(call.now()), TenantId::from_uuid),
        name: Name::parse("name", body.name)?,
        status: TenantStatus::Active,
        config: body.config.as_ref().map(Config::parse).transpose()?.unwrap_or_default(),
        created_at: call.now(),
    };
    let (key, secret_hash) = verifier.new_key().await.map_err(|denied| ApiError::denied(denied, Access::Operator))?;
    let stored = TenantKey { key_id: key.key_id().clone(), secret_hash, expires_at: None, revoked_at: None };
    let created = call.api.store.tenants().create(&tenant, &stored).await?;

    let exposed = key.expose();
    let shown = NewKeyView { key_id: key.key_id().to_string(), api_key: Some(exposed.expose_secret()) };
    let hidden = NewKeyView { api_key: None, ..shown.clone() };
    let view = |key| NewTenantView { tenant: TenantView::new(&tenant, verifier.defaults()), key };
    // Run again after a crash, the first key stands, and nobody has seen it.
    let answered = if created { shown } else { hidden.clone() };
    Reply::json(StatusCode::CREATED, &view(answered))?.keeping(&view(hidden))
}

/// `GET /admin/tenants`
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let limit = call.limit()?;
    let status = match call.parameter("status") {
        Some(word) => {
            let status = TenantStatus::from_word(&word);
            Some(status.ok_or_else(|| ApiError::invalid("status", "expected 'active', 'suspended' or 'deleting'"))?)
        }
        None => None,
    };
    let name = match call.parameter("name") {
        Some(name) => Some(Name::parse("name", name)?),
        None => None,
    };
    let name = name.as_ref().map(Name::as_str);
    let mut tenants = call.api.store.tenants().list(call.cursor()?, status, name, i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut tenants, limit, |tenant| tenant.tenant_id);
    let defaults = call.api.verifier.defaults();
    let views: Vec<_> = tenants.iter().map(|tenant| TenantView::new(tenant, defaults)).collect();
    Reply::ok(&json!({ "tenants": views, "next_cursor": next_cursor }))
}

/// `GET /admin/tenants/{tenant_id}`
pub(crate) async fn get(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.api.store.tenants().get(call.id(0, "Tenant")?).await?;
    Reply::ok(&TenantView::new(&tenant, call.api.verifier.defaults()))
}

/// `GET /tenant`
pub(crate) fn own(call: &Call) -> Result<Reply, ApiError> {
    Reply::ok(&TenantView::new(&call.caller()?.tenant, call.api.verifier.defaults()))
}
