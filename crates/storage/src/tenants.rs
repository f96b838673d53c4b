//! The tenants themselves. One of the few files that see more than one tenant.

use std::fmt;

use chatapi_domain::{Config, Fact, Tenant, TenantId, TenantKey, TenantPatch, TenantStatus, Timestamp};
use secrecy::SecretSlice;
use tokio_postgres::Row;

use crate::db::Db;
use crate::feed::tell_in;
use crate::row::{get, word};
use crate::{Error, Result};

const CREATE: &str = "
    with tenant as (
        insert into tenants (tenant_id, name, config, created_at) values ($1, $2, $3::text::jsonb, $4)
        on conflict do nothing returning tenant_id)
    insert into tenant_keys (tenant_id, key_id, secret_hash, created_at)
    select tenant_id, $5, $6, $4 from tenant";

const GET: &str = "
    select tenant_id, name, status, config::text as config, created_at
      from tenants where tenant_id = $1";

/// Ids are ordered by time, so the newest first is the primary key backwards.
const LIST: &str = "
    select tenant_id, name, status, config::text as config, created_at
      from tenants
     where ($1::uuid is null or tenant_id < $1)
       and ($2::text is null or status = $2) and ($3::text is null or name = $3)
     order by tenant_id desc limit $4";

const FIND: &str = "
    select tenant_id, name, status, config::text as config, created_at, token_secret, tokens_revoked_at
      from tenants where tenant_id = $1";

const LOCK: &str = "
    select tenant_id, name, status, config::text as config, created_at
      from tenants where tenant_id = $1 for no key update";

const UPDATE: &str = "update tenants set name = $2, status = $3, config = $4::text::jsonb where tenant_id = $1";

const DISABLE_WEBHOOK: &str = "
    update tenants set config = config || jsonb_build_object('webhook_disabled_at', $3::text)
     where tenant_id = $1 and config ->> 'webhook_url' = $2 and not config ? 'webhook_disabled_at'
       and config ->> 'webhook_set_at' is not distinct from $4";

const DELETE: &str = "update tenants set status = 'deleting' where tenant_id = $1";

const ROOMS_LEFT: &str = "select count(*) as rooms from rooms where tenant_id = $1";

const ALLOWS_ORIGIN: &str = "
    select exists (
        select from tenants
         where status = 'active'
           and (config -> 'allowed_origins' @> to_jsonb($1::text) or config -> 'allowed_origins' @> '\"*\"'))";

/// All tenants: for the operator.
#[derive(Debug, Clone, Copy)]
pub struct Tenants<'a> {
    pub(crate) db: &'a Db,
}

/// A tenant with what its users' tokens are checked against.
#[derive(Clone)]
pub struct FoundTenant {
    /// The tenant.
    pub tenant: Tenant,
    /// What signs its tokens.
    pub token_secret: SecretSlice<u8>,
    /// Tokens issued until then are refused.
    pub tokens_revoked_at: Option<Timestamp>,
}

impl fmt::Debug for FoundTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoundTenant").field("tenant_id", &self.tenant.tenant_id).finish_non_exhaustive()
    }
}

impl Tenants<'_> {
    /// Keeps a new tenant with its first key. Again with the same id (a request that is run again
    /// after a crash) it changes nothing and returns false.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn create(&self, tenant: &Tenant, key: &TenantKey) -> Result<bool> {
        let config = tenant.config.to_stored().to_string();
        let rows = self
            .db
            .execute(
                CREATE,
                &[&tenant.tenant_id, &tenant.name, &config, &tenant.created_at, &key.key_id, &key.secret_hash],
            )
            .await?;
        Ok(rows == 1)
    }

    /// One tenant.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none of this id.
    pub async fn get(&self, tenant: TenantId) -> Result<Tenant> {
        let row = self.db.query_opt(GET, &[&tenant]).await?;
        row.as_ref().map(read).transpose()?.ok_or(Error::NotFound("Tenant"))
    }

    /// The tenant of this id, whatever its state: for checking its users' tokens.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn find(&self, tenant: TenantId) -> Result<Option<FoundTenant>> {
        let Some(row) = self.db.query_opt(FIND, &[&tenant]).await? else { return Ok(None) };
        let secret: Vec<u8> = get(&row, "token_secret")?;
        Ok(Some(FoundTenant {
            tenant: read(&row)?,
            token_secret: secret.into(),
            tokens_revoked_at: get(&row, "tokens_revoked_at")?,
        }))
    }

    /// Changes a tenant; told to all nodes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none of this id; [`Error::Conflict`] if it is being deleted;
    /// [`Error::Invalid`] if a field of the configuration is wrong.
    pub async fn update(&self, tenant: TenantId, patch: &TenantPatch, now: Timestamp) -> Result<Tenant> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let row = tx.query_opt(LOCK, &[&tenant]).await?;
        let mut changed = row.as_ref().map(read).transpose()?.ok_or(Error::NotFound("Tenant"))?;
        if changed.status == TenantStatus::Deleting {
            return Err(Error::BEING_DELETED);
        }
        if let Some(name) = &patch.name {
            changed.name = name.clone();
        }
        if let Some(status) = patch.status {
            changed.status = status;
        }
        if let Some(config) = &patch.config {
            changed.config = changed.config.patched(config, now)?;
        }
        let config = changed.config.to_stored().to_string();
        tx.execute(UPDATE, &[&tenant, &changed.name, &changed.status.as_str(), &config]).await?;
        tell_in(&tx, tenant, &[Fact::TenantChanged]).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Notes that the endpoint at `url` said that it is gone, unless it was set again since `set_at`: it is
    /// told nothing more. Told to all nodes. Whether it is disabled by this.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn disable_webhook(
        &self,
        tenant: TenantId,
        url: &str,
        set_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool> {
        let set_at = set_at.map(|at| at.to_string());
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let disabled = tx.execute(DISABLE_WEBHOOK, &[&tenant, &url, &now.to_string(), &set_at]).await? > 0;
        if disabled {
            tell_in(&tx, tenant, &[Fact::TenantChanged]).await?;
        }
        tx.commit().await?;
        Ok(disabled)
    }

    /// Begins to delete a tenant: nothing of it is served from now on, and its rows go in the
    /// background. Again it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none of this id, or no more.
    pub async fn delete(&self, tenant: TenantId) -> Result<()> {
        let mut client = self.db.client().await?;
        let tx = client.begin().await?;
        let marked = tx.execute(DELETE, &[&tenant]).await?;
        if marked == 0 {
            return Err(Error::NotFound("Tenant"));
        }
        tell_in(&tx, tenant, &[Fact::TenantChanged]).await?;
        tx.commit().await
    }

    /// How many rooms a tenant that is being deleted still has.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn rooms_left(&self, tenant: TenantId) -> Result<i64> {
        let row = self.db.query_opt(ROOMS_LEFT, &[&tenant]).await?;
        row.as_ref().map_or(Ok(0), |row| get(row, "rooms"))
    }

    /// Tenants, newest first, at most `limit`, older than `before` if given.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn list(
        &self,
        before: Option<TenantId>,
        status: Option<TenantStatus>,
        name: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Tenant>> {
        let status = status.map(TenantStatus::as_str);
        self.db.query(LIST, &[&before, &status, &name, &limit]).await?.iter().map(read).collect()
    }

    /// Whether any tenant lets pages of this origin call.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn any_allows_origin(&self, origin: &str) -> Result<bool> {
        let row = self.db.query_opt(ALLOWS_ORIGIN, &[&origin]).await?;
        row.as_ref().map_or(Ok(false), |row| get(row, "exists"))
    }
}

/// Reads a row that has the columns of [`GET`].
pub(crate) fn read(row: &Row) -> Result<Tenant> {
    let config: &str = get(row, "config")?;
    let corrupt = |source| Error::Corrupt { column: "config", source };
    let config = serde_json::from_str(config).map_err(|error| corrupt(error.into()))?;
    Ok(Tenant {
        tenant_id: get(row, "tenant_id")?,
        name: get(row, "name")?,
        status: word(row, "status", TenantStatus::from_word)?,
        config: Config::from_stored(&config).map_err(|error| corrupt(error.into()))?,
        created_at: get(row, "created_at")?,
    })
}
