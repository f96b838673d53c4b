//! The audit log.

use chatapi_domain::{TenantId, Timestamp};
use chatapi_storage::AuditEntry;
use serde::Serialize;
use serde_json::json;

use crate::call::{Call, paged};
use crate::cursor::EntryCursor;
use crate::error::ApiError;
use crate::reply::Reply;

#[derive(Serialize)]
struct EntryView<'a> {
    at: Timestamp,
    actor: &'a str,
    action: &'a str,
    tenant_id: Option<TenantId>,
    target: Option<&'a str>,
    outcome: &'a str,
    address: &'a str,
    request_id: &'a str,
}

impl<'a> From<&'a AuditEntry> for EntryView<'a> {
    fn from(entry: &'a AuditEntry) -> Self {
        Self {
            at: entry.at,
            actor: &entry.actor,
            action: &entry.action,
            tenant_id: entry.tenant_id,
            target: entry.target.as_deref(),
            outcome: &entry.outcome,
            address: &entry.address,
            request_id: &entry.request_id,
        }
    }
}

/// `GET /admin/audit-log`: newest first.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let (limit, before) = (call.limit()?, call.cursor::<EntryCursor>()?.map(|cursor| cursor.0));
    let tenant = match call.parameter("tenant_id") {
        Some(id) => Some(id.parse().map_err(|_| ApiError::invalid("tenant_id", "expected the id of a tenant"))?),
        None => None,
    };
    let mut entries = call.api.store.audit().list(tenant, before, i64::from(limit) + 1).await?;
    let next_cursor = paged(&mut entries, limit, |entry| EntryCursor(entry.entry_id));
    let entries: Vec<_> = entries.iter().map(EntryView::from).collect();
    Reply::ok(&json!({ "entries": entries, "next_cursor": next_cursor }))
}
