//! The keys of all tenants. One of the few files that see more than one tenant: a key is looked
//! up before anybody knows whose it is.

use chatapi_domain::{Fact, KeyId, KeyInfo, Name, Tenant, TenantId, TenantKey, Timestamp};

use tokio_postgres::Row;

use crate::db::{Db, Tx};
use crate::feed::tell_in;
use crate::row::get;
use crate::{Error, Result, tenants};

const FIND: &str = "
    select k.key_id, k.secret_hash, k.expires_at, k.revoked_at,
           t.tenant_id, t.name, t.status, t.config::text as config, t.created_at
      from tenant_keys k join tenants t using (tenant_id)
     where k.key_id = $1";

const LIST: &str = "
    select key_id, name, created_at, last_used_at, expires_at, revoked_at from tenant_keys
     where tenant_id = $1 and ($2::text is null or key_id > $2) order by key_id limit $3";

const CREATE: &str = "
    insert into tenant_keys (tenant_id, key_id, secret_hash, name, created_at, expires_at)
    select tenant_id, $2, $3, $4, $5, $6 from tenants where tenant_id = $1 and status <> 'deleting'
        on conflict do nothing
 returning key_id, name, created_at, last_used_at, expires_at, revoked_at";

/// All keys of the tenant are locked, so that two that revoke each other leave one.
const LOCK: &str =
    "select key_id, expires_at, revoked_at, name from tenant_keys where tenant_id = $1 order by key_id for update";

const REVOKE: &str =
    "update tenant_keys set revoked_at = coalesce(revoked_at, $3) where tenant_id = $1 and key_id = $2";

const EXPIRE: &str = "
    update tenant_keys set expires_at = least(coalesce(expires_at, $3), $3) where tenant_id = $1 and key_id = $2";

const USED: &str = "
    update tenant_keys k set last_used_at = greatest(coalesce(k.last_used_at, u.at), u.at)
      from unnest($1::uuid[], $2::text[], $3::timestamptz[]) u (tenant_id, key_id, at)
     where k.tenant_id = u.tenant_id and k.key_id = u.key_id";

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
    /// [`Error`] if the database fails.
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

    /// A tenant's keys by their ids, at most `limit` after `after`.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn list(&self, tenant: TenantId, after: Option<&KeyId>, limit: i64) -> Result<Vec<KeyInfo>> {
        self.db.query(LIST, &[&tenant, &after, &limit]).await?.iter().map(info).collect()
    }

    /// Keeps a new key. Again with the same id (a request that is run again after a crash) it is
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such tenant.
    pub async fn create(
        &self,
        tenant: TenantId,
        key: &TenantKey,
        name: Option<&Name>,
        now: Timestamp,
    ) -> Result<KeyInfo> {
        let parameters: &crate::db::Params<'_> =
            &[&tenant, &key.key_id, &key.secret_hash, &name, &now, &key.expires_at];
        let row = self.db.query_opt(CREATE, parameters).await?;
        row.as_ref().map(info).transpose()?.ok_or(Error::NotFound("Tenant"))
    }

    /// Refuses a key from now on; told to all nodes. Again it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the tenant has no such key; [`Error::Conflict`] if it is the last one
    /// in force and `keep_one` is set.
    pub async fn revoke(&self, tenant: TenantId, key: &KeyId, keep_one: bool, now: Timestamp) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let keys = lock(&tx, tenant).await?;
        let found = keys.iter().find(|found| found.key_id == *key).ok_or(Error::NotFound("Key"))?;
        let others = keys.iter().filter(|other| other.key_id != *key && other.is_in_force(now)).count();
        if keep_one && others == 0 && found.is_in_force(now) {
            return Err(Error::Conflict("This is the last key in force: make another one first"));
        }
        tx.execute(REVOKE, &[&tenant, key, &now]).await?;
        tell_in(&tx, tenant, &[Fact::TenantChanged]).await?;
        tx.commit().await
    }

    /// Keeps a new key in the place of another, which ends at `old_ends`; told to all nodes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the tenant has no such key; [`Error::Conflict`] if that is not in
    /// force.
    pub async fn rotate(
        &self,
        tenant: TenantId,
        old: &KeyId,
        new: &TenantKey,
        old_ends: Timestamp,
        now: Timestamp,
    ) -> Result<KeyInfo> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let keys = lock(&tx, tenant).await?;
        let found = keys.iter().find(|found| found.key_id == *old).ok_or(Error::NotFound("Key"))?;
        if !found.is_in_force(now) {
            return Err(Error::Conflict("The key is not in force any more"));
        }
        let parameters: &crate::db::Params<'_> =
            &[&tenant, &new.key_id, &new.secret_hash, &found.name, &now, &new.expires_at];
        let row = tx.query_opt(CREATE, parameters).await?;
        let made = row.as_ref().map(info).transpose()?.ok_or(Error::NotFound("Tenant"))?;
        tx.execute(EXPIRE, &[&tenant, old, &old_ends]).await?;
        tell_in(&tx, tenant, &[Fact::TenantChanged]).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Notes when keys were last used, many at once.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn used(&self, keys: &[(TenantId, KeyId, Timestamp)]) -> Result<()> {
        let mut sorted = keys.to_vec();
        sorted.sort();
        let tenants: Vec<TenantId> = sorted.iter().map(|(tenant, ..)| *tenant).collect();
        let ids: Vec<&KeyId> = sorted.iter().map(|(_, key, _)| key).collect();
        let times: Vec<Timestamp> = sorted.iter().map(|(.., at)| *at).collect();
        self.db.execute(USED, &[&tenants, &ids, &times]).await.map(|_| ())
    }
}

/// A key whose row is locked.
struct Locked {
    key_id: KeyId,
    name: Option<Name>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl Locked {
    fn is_in_force(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expiry| expiry > now)
    }
}

async fn lock(tx: &Tx<'_>, tenant: TenantId) -> Result<Vec<Locked>> {
    let read = |row: &Row| {
        let (key_id, name) = (get(row, "key_id")?, get(row, "name")?);
        Ok(Locked { key_id, name, expires_at: get(row, "expires_at")?, revoked_at: get(row, "revoked_at")? })
    };
    tx.query(LOCK, &[&tenant]).await?.iter().map(read).collect()
}

fn info(row: &Row) -> Result<KeyInfo> {
    Ok(KeyInfo {
        key_id: get(row, "key_id")?,
        name: get(row, "name")?,
        created_at: get(row, "created_at")?,
        last_used_at: get(row, "last_used_at")?,
        expires_at: get(row, "expires_at")?,
        revoked_at: get(row, "revoked_at")?,
    })
}
