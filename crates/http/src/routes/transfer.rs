//! Whole tenants, out and in.

use std::io;

use chatapi_domain::TenantStatus;
use chatapi_storage::Error as StoreError;
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use secrecy::ExposeSecret;

use crate::body;
use crate::call::Call;
use crate::error::{ApiError, Kind};
use crate::reply::Reply;
use crate::route::Access;
use crate::views::ImportedView;

/// `GET /admin/tenants/{tenant_id}/export`
pub(crate) async fn export(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.id(0, "Tenant")?;
    if call.head {
        let found = call.api.store.tenants().get(tenant).await?;
        let leaves = found.status == TenantStatus::Deleting;
        return if leaves { Err(StoreError::BEING_DELETED.into()) } else { Ok(Reply::head_of_stream()) };
    }
    Ok(Reply::stream(call.api.store.transfer().export(tenant, call.now()).await?))
}

/// `POST /admin/tenants/import`
pub(crate) async fn import(mut call: Call) -> Result<Reply, ApiError> {
    let incoming = call.incoming.take();
    let mut incoming = incoming.ok_or_else(|| ApiError::internal("an import without a body"))?;
    let result = import_from(&call, &mut incoming).await;
    if result.is_err() {
        // However much is on its way: the client must come to read why it is not taken.
        body::linger(incoming, usize::MAX, &call.api.tasks);
    }
    result
}

async fn import_from(call: &Call, incoming: &mut Incoming) -> Result<Reply, ApiError> {
    if !body::is(&call.headers, "application/x-ndjson") {
        return Err(ApiError::new(Kind::UnsupportedMediaType, "The body must be application/x-ndjson"));
    }
    let into = call.parameter("tenant_id").map(|id| id.parse()).transpose();
    let into = into.map_err(|_| ApiError::invalid("tenant_id", "expected the id of a tenant"))?;
    let verifier = &call.api.verifier;
    let (key, stored) = verifier.new_key(None).await.map_err(|denied| ApiError::denied(denied, Access::Operator))?;

    let source = incoming.into_data_stream().map_err(io::Error::other);
    let imported = call.api.store.transfer().import(source, into, &stored, call.now()).await?;

    let exposed = key.expose();
    let view = ImportedView::new(&imported, verifier.defaults(), key.key_id(), exposed.expose_secret());
    Ok(Reply::json(StatusCode::CREATED, &view)?.about(imported.tenant.tenant_id, key.key_id()))
}
