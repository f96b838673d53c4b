//! What of a request goes into the audit log.

use std::net::IpAddr;

use chatapi_auth::{Caller, Credential};
use chatapi_domain::{EventId, KeyId, RequestId, TenantId};
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
        Route::DeadLettersList => AuditAction::DeadLetterList,
        Route::DeadLettersRetry => AuditAction::DeadLetterRetry,
        _ => return None,
    })
}

/// Whether a request must be noted though it changes nothing: the operator's, where it was refused.
const fn only_refused(route: Route) -> bool {
    use Route::{AuditList, DeadLettersList, KeysList, TenantsGet, TenantsList, UsageList, UsageTotals};
    matches!(route, TenantsList | TenantsGet | KeysList | AuditList | UsageTotals | UsageList | DeadLettersList)
}

/// What is known of a request before it is answered; nothing of one that is not to be noted.
pub(crate) struct Asked {
    action: AuditAction,
    actor: String,
    tenant_id: Option<TenantId>,
    target: Option<String>,
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
            // The path of a dead letter names no tenant.
            let tenant = named(0).and_then(|id| id.parse().ok());
            (actor.to_owned(), tenant, if tenant.is_some() { named(1) } else { named(0) })
        };
        let is_id = |id: &str| id.parse::<KeyId>().is_ok() || id.parse::<EventId>().is_ok();
        let target = key.filter(|id| is_id(id)).map(str::to_owned);
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
        let (tenant, target) = result.ok().and_then(|reply| reply.subject.clone()).map_or((None, None), |made| {
            let Subject { tenant_id, target } = made;
            (Some(tenant_id), Some(target))
        });
        let entry = AuditEntry {
            entry_id: *RequestId::new(now).as_uuid(),
            at: now,
            actor: self.actor,
            action: self.action.as_str().to_owned(),
            tenant_id: self.tenant_id.or(tenant),
            target: target.or(self.target),
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
