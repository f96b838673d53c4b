//! The keys of all tenants. One of the few files that see more than one tenant: a key is looked
//! up before anybody knows whose it is.

use chatapi_domain::{KeyId, Tenant, TenantKey};

use crate::Result;
use crate::db::Db;
use crate::row::get;
use crate::tenants;

const FIND: &str = "
    select k.key_id, k.secret_hash, k.expires_at, k.revoked_at,
           t.tenant_id, t.name, t.status, t.config::text as config, t.created_at
      from tenant_keys k join tenants t using (tenant_id)
     where k.key_id = $1";

/// All keys: for finding out who asks.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    pub(crate) db: &'a Db,
}

/// A key and the tenant it belongs to.
#[derive(Debug, Clone)]
pub struct FoundKey {
    /// The key.
    pub key: TenantKey,
    /// Its tenant.
    pub tenant: Tenant,
}

impl Keys<'_> {
    /// The key of this id, whatever its state.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn find(&self, key_id: &KeyId) -> Result<Option<FoundKey>> {
        let Some(row) = self.db.query_opt(FIND, &[key_id]).await? else { return Ok(None) };
        let key = TenantKey {
            key_id: get(&row, "key_id")?,
            secret_hash: get(&row, "secret_hash")?,
            expires_at: get(&row, "expires_at")?,
            revoked_at: get(&row, "revoked_at")?,
        };
        Ok(Some(FoundKey { key, tenant: tenants::read(&row)? }))
    }
}
