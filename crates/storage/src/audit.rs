//! What was done, and tried, with tenants and keys. One of the few files that see more than one
//! tenant.

use chatapi_domain::{TenantId, Timestamp};
use uuid::Uuid;

use crate::Result;
use crate::db::Db;
use crate::row::get;

/// The audit log: entries are added and never changed.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    pub(crate) db: &'a Db,
}

/// What is done, or tried, with tenants and keys, whoever asks and however.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// A tenant is made.
    TenantCreate,
    /// A tenant's name, status or configuration is changed.
    TenantUpdate,
    /// A tenant is exported.
    TenantExport,
    /// A tenant is imported.
    TenantImport,
    /// A tenant is deleted.
    TenantDelete,
    /// Tenants are listed.
    TenantList,
    /// A tenant is looked at.
    TenantGet,
    /// A key is made.
    KeyCreate,
    /// A key is revoked.
    KeyRevoke,
    /// A key takes the place of another.
    KeyRotate,
    /// A tenant's keys are listed.
    KeyList,
    /// This log is read.
    AuditList,
    /// What tenants used is read.
    UsageList,
    /// What endpoints could not be told is read.
    DeadLetterList,
    /// A dead letter is tried again.
    DeadLetterRetry,
}

impl AuditAction {
    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TenantCreate => "tenant.create",
            Self::TenantUpdate => "tenant.update",
            Self::TenantExport => "tenant.export",
            Self::TenantImport => "tenant.import",
            Self::TenantDelete => "tenant.delete",
            Self::TenantList => "tenant.list",
            Self::TenantGet => "tenant.get",
            Self::KeyCreate => "key.create",
            Self::KeyRevoke => "key.revoke",
            Self::KeyRotate => "key.rotate",
            Self::KeyList => "key.list",
            Self::AuditList => "audit.list",
            Self::UsageList => "usage.list",
            Self::DeadLetterList => "dead_letter.list",
            Self::DeadLetterRetry => "dead_letter.retry",
        }
    }
}

/// One thing that was done or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Sortable by time.
    pub entry_id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Who: `master`, the id of a tenant's key, `command-line`, or `unknown` if the credentials
    /// were refused.
    pub actor: String,
    /// What: the word of an [`AuditAction`].
    pub action: String,
    /// The tenant it was about, as far as that is known.
    pub tenant_id: Option<TenantId>,
    /// What of the tenant's it was about: the id of a key or of a dead letter.
    pub target: Option<String>,
    /// `ok`, or the error that was answered.
    pub outcome: String,
    /// Where it was asked from; `-` if not over the network.
    pub address: String,
    /// The id of the request.
    pub request_id: String,
}

const ADD: &str = "
    insert into audit_log (entry_id, at, actor, action, tenant_id, target, outcome, address, request_id)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const LIST: &str = "
    select entry_id, at, actor, action, tenant_id, target, outcome, address, request_id from audit_log
     where $1::uuid is null or entry_id < $1 order by entry_id desc limit $2";

const LIST_OF_TENANT: &str = "
    select entry_id, at, actor, action, tenant_id, target, outcome, address, request_id from audit_log
     where tenant_id = $3 and ($1::uuid is null or entry_id < $1) order by entry_id desc limit $2";

impl Audit<'_> {
    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn add(&self, entry: &AuditEntry) -> Result<()> {
        let AuditEntry { entry_id, at, actor, action, tenant_id, target, outcome, address, request_id } = entry;
        let parameters: &crate::db::Params<'_> =
            &[entry_id, at, actor, action, tenant_id, target, outcome, address, request_id];
        self.db.execute(ADD, parameters).await.map(|_| ())
    }

    /// Entries, newest first, of one tenant if one is given; at most `limit`, older than `before`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn list(&self, tenant: Option<TenantId>, before: Option<Uuid>, limit: i64) -> Result<Vec<AuditEntry>> {
        let rows = match tenant {
            Some(tenant) => self.db.query(LIST_OF_TENANT, &[&before, &limit, &tenant]).await?,
            None => self.db.query(LIST, &[&before, &limit]).await?,
        };
        let entry = |row| {
            Ok(AuditEntry {
                entry_id: get(row, "entry_id")?,
                at: get(row, "at")?,
                actor: get(row, "actor")?,
                action: get(row, "action")?,
                tenant_id: get(row, "tenant_id")?,
                target: get(row, "target")?,
                outcome: get(row, "outcome")?,
                address: get(row, "address")?,
                request_id: get(row, "request_id")?,
            })
        };
        rows.iter().map(entry).collect()
    }
}
