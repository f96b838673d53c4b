//! What of a request goes into the audit log.

use std::net::IpAddr;

use chatapi_auth::{Caller, Credential};
use chatapi_domain::{KeyId, RequestId, TenantId};
use chatapi_storage::{AuditAction, AuditEntry};

use crate::api::Api;
use crate::clock;
use crate::error::{ApiError, Kind};
use crate::reply::{Reply, Subject};
use crate::route::Route;

/// What a route does to tenants and keys; nothing for all others.
const fn action(route: Route) -> Option<AuditAction> {
    Some(match route {
        Route::TenantsCreate => AuditAction::TenantCreate,
        Route::TenantsUpdate | Route::TenantUpdate => AuditAction::TenantUpdate,
        Route::TenantsDelete => AuditAction::TenantDelete,
        Route::KeysCreate | Route::OwnKeysCreate => AuditAction::KeyCreate,
        Route::KeysRevoke | Route::OwnKeysRevoke => AuditAction::KeyRevoke,
        Route::KeysRotate | Route::OwnKeysRotate => AuditAction::KeyRotate,
        Route::TenantsList => AuditAction::TenantList,
        Route::TenantsGet => AuditAction::TenantGet,
        Route::KeysList => AuditAction::KeyList,
        Route::AuditList => AuditAction::AuditList,
        Route::UsageTotals | Route::UsageList => AuditAction::UsageList,
        Route::TenantsExport => AuditAction::TenantExport,
        Route::TenantsImport => AuditAction::TenantImport,
        _ => return None,
    })
}

/// Whether a request must be noted though it changes nothing: the operator's, where it was refused.
const fn only_refused(route: Route) -> bool {
    use Route::{AuditList, KeysList, TenantsGet, TenantsList, UsageList, UsageTotals};
    matches!(route, TenantsList | TenantsGet | KeysList | AuditList | UsageTotals | UsageList)
}

/// What is known of a request before it is answered; nothing of one that is not to be noted.
pub(crate) struct Asked {
    action: AuditAction,
    actor: String,
    tenant_id: Option<TenantId>,
    target: Option<KeyId>,
    address: IpAddr,
    request_id: String,
}

impl Asked {
    /// `caller` is the tenant that asks, `allowed` whether the credentials were right.
    pub(crate) fn of(
        route: Route,
        segments: &[String],
        caller: Option<&Caller>,
        allowed: bool,
        address: IpAddr,
        request_id: &str,
    ) -> Option<Self> {
        let action = action(route)?;
        if allowed && only_refused(route) {
            return None;
        }
        let named = |place: usize| segments.get(place).map(String::as_str);
        let (actor, tenant_id, key) = if let Some(caller) = caller {
            let actor = match &caller.credential {
                Credential::Key { key_id, .. } => key_id.to_string(),
                Credential::Token { user_id, .. } => format!("user {user_id}"),
            };
            (actor, Some(caller.tenant.tenant_id), named(0))
        } else {
            let actor = if allowed { "master" } else { "unknown" };
            (actor.to_owned(), named(0).and_then(|id| id.parse().ok()), named(1))
        };
        let target = key.and_then(|id| id.parse().ok());
        Some(Self { action, actor, tenant_id, target, address, request_id: request_id.to_owned() })
    }

    /// The same, about the tenant that the query names if the path names none.
    pub(crate) fn or_about(mut self, tenant: Option<&str>) -> Self {
        self.tenant_id = self.tenant_id.or_else(|| tenant?.parse().ok());
        self
    }

    /// Notes the request and what became of it. If that fails the log says so: the work is done.
    pub(crate) async fn answered(self, api: &Api, result: Result<&Reply, &ApiError>) {
        if result.is_err_and(|error| error.kind() == Kind::RateLimited) {
            // Who may not even try is kept from filling the log.
            return;
        }
        let now = clock::now().wall;
        let (tenant, key) = result.ok().and_then(|reply| reply.subject.clone()).map_or((None, None), |made| {
            let Subject { tenant_id, key_id } = made;
            (Some(tenant_id), Some(key_id))
        });
        let entry = AuditEntry {
            entry_id: *RequestId::new(now).as_uuid(),
            at: now,
            actor: self.actor,
            action: self.action.as_str().to_owned(),
            tenant_id: self.tenant_id.or(tenant),
            target: key.or(self.target).map(|id| id.to_string()),
            outcome: result.map_or_else(|error| error.kind().code(), |_| "ok").to_owned(),
            address: self.address.to_canonical().to_string(),
            request_id: self.request_id,
        };
        if let Err(error) = api.store.audit().add(&entry).await {
            let AuditEntry { action, outcome, .. } = entry;
            tracing::error!(%error, action, outcome, "An entry of the audit log is missing");
        }
    }
}
