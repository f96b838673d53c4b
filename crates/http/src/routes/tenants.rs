//! Tenants.

use bytes::Bytes;
use chatapi_domain::{Config, Name, Tenant, TenantId, TenantPatch, TenantStatus, check_webhook_url};
use hyper::StatusCode;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, paged};
use crate::error::{ApiError, Kind};
use crate::reply::Reply;
use crate::route::Access;
use crate::views::{NewTenantView, TenantView};

#[derive(Deserialize)]
struct CreateBody {
    name: String,
    config: Option<Value>,
}

/// `POST /admin/tenants`
pub(crate) async fn create(call: Call) -> Result<Reply, ApiError> {
    let body: CreateBody = call.json()?;
    check_endpoint(&call, body.config.as_ref())?;
    let verifier = &call.api.verifier;
    let tenant_id = call.subject.map_or_else(|| TenantId::new(call.now()), TenantId::from_uuid);
    let tenant = Tenant::new(tenant_id, body.name, body.config.as_ref(), call.now())?;
    let (key, stored) = verifier.new_key(None).await.map_err(|denied| ApiError::denied(denied, Access::Operator))?;
    let created = call.api.store.tenants().create(&tenant, &stored).await?;

    let exposed = key.expose();
    let view = |api_key| NewTenantView::new(&tenant, verifier.defaults(), key.key_id(), api_key);
    // Run again after a crash, the first key stands, and nobody has seen it.
    let shown = created.then(|| exposed.expose_secret());
    let reply = Reply::json(StatusCode::CREATED, &view(shown))?.keeping(&view(None))?;
    Ok(reply.about(tenant.tenant_id, key.key_id()))
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

/// `GET /admin/tenants/{tenant_id}`: one that is being deleted with how many rooms are left.
pub(crate) async fn get(call: Call) -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    struct Leaving<'a> {
        #[serde(flatten)]
        tenant: TenantView<'a>,
        rooms_left: i64,
    }
    let tenants = call.api.store.tenants();
    let tenant = tenants.get(call.id(0, "Tenant")?).await?;
    let view = TenantView::new(&tenant, call.api.verifier.defaults());
    if tenant.status == TenantStatus::Deleting {
        let rooms_left = tenants.rooms_left(tenant.tenant_id).await?;
        return Reply::ok(&Leaving { tenant: view, rooms_left });
    }
    Reply::ok(&view)
}

#[derive(Deserialize)]
struct UpdateBody {
    name: Option<String>,
    status: Option<String>,
    config: Option<Value>,
}

/// `PATCH /admin/tenants/{tenant_id}`
pub(crate) async fn update(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.id(0, "Tenant")?;
    let body: UpdateBody = call.json()?;
    let status = body.status.map(|word| match word.as_str() {
        "active" => Ok(TenantStatus::Active),
        "suspended" => Ok(TenantStatus::Suspended),
        _ => Err(ApiError::invalid("status", "expected 'active' or 'suspended'")),
    });
    let name = body.name.map(|name| Name::parse("name", name)).transpose()?;
    patch(&call, tenant, TenantPatch { name, status: status.transpose()?, config: body.config }).await
}

/// `PATCH /tenant`: what is the tenant's own to change.
pub(crate) async fn update_own(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.caller()?.tenant.tenant_id;
    let body: UpdateBody = call.json()?;
    let forbidden = |field: &str| ApiError::new(Kind::Forbidden, format!("{field} is the operator's to change"));
    if body.status.is_some() {
        return Err(forbidden("status"));
    }
    let fields = body.config.as_ref().and_then(Value::as_object);
    if let Some(field) = fields.and_then(|fields| fields.keys().find(|name| Config::is_the_operators(name))) {
        return Err(forbidden(&format!("config.{field}")));
    }
    let name = body.name.map(|name| Name::parse("name", name)).transpose()?;
    patch(&call, tenant, TenantPatch { name, status: None, config: body.config }).await
}

/// An endpoint that is set must be where this server may call.
fn check_endpoint(call: &Call, config: Option<&Value>) -> Result<(), ApiError> {
    match config.and_then(|config| config.get("webhook_url")).and_then(Value::as_str) {
        Some(url) => Ok(check_webhook_url(url, call.api.options.webhook_allow_private).map(|_| ())?),
        // Not there, or of a type that is refused with all others.
        None => Ok(()),
    }
}

async fn patch(call: &Call, tenant: TenantId, patch: TenantPatch) -> Result<Reply, ApiError> {
    check_endpoint(call, patch.config.as_ref())?;
    let changed = call.api.store.tenants().update(tenant, &patch, call.now()).await?;
    // Here at once; elsewhere as soon as it is told.
    call.api.verifier.outdate(tenant, crate::clock::now().monotonic);
    Reply::ok(&TenantView::new(&changed, call.api.verifier.defaults()))
}

/// `DELETE /admin/tenants/{tenant_id}`
pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.id(0, "Tenant")?;
    call.api.store.tenants().delete(tenant).await?;
    call.api.verifier.outdate(tenant, crate::clock::now().monotonic);
    Reply::json(StatusCode::ACCEPTED, &json!({ "status": "deleting" }))
}

/// `GET /tenant`
pub(crate) fn own(call: &Call) -> Result<Reply, ApiError> {
    let caller = call.caller()?;
    if let Some(shown) = caller.shown.get() {
        return Ok(Reply::page(Bytes::copy_from_slice(shown)));
    }
    let reply = Reply::ok(&TenantView::new(&caller.tenant, call.api.verifier.defaults()))?;
    Ok(Reply::page(Bytes::copy_from_slice(caller.shown.get_or_init(|| Box::from(&*reply.body)))))
}
