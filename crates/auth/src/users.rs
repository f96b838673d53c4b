//! Users by themselves: tokens and tickets.

use std::net::IpAddr;
use std::sync::Arc;

use chatapi_domain::{Tenant, TenantId, TenantStatus, Timestamp, UserId};
use chatapi_storage::{Issuer, Ticket};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest, Sha256};

use crate::caller::OfTenant;
use crate::key::random_text;
use crate::token::Claims;
use crate::{Caller, Credential, Denied, Moment, Verifier};

const TICKET: &str = "wst_";

/// Characters of an id of ours, after its prefix.
const ID_LENGTH: usize = 26;

/// 32 characters of 62 are 190 bits.
const TICKET_SECRET: usize = 32;

/// A tenant, with what its users' tokens are checked against.
#[derive(Debug)]
pub(crate) struct KnownTenant {
    tenant: Tenant,
    secret: SecretSlice<u8>,
    tokens_revoked_at: Option<Timestamp>,
    shared: Arc<OfTenant>,
    read_at: u64,
}

/// When a user's tokens were last revoked.
#[derive(Debug)]
pub(crate) struct KnownUser {
    revoked_at: Option<Timestamp>,
    read_at: u64,
}

impl Verifier {
    /// The user whose token this is.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn user(&self, token: &str, from: IpAddr, now: Moment) -> Result<Arc<Caller>, Denied> {
        let result = self.find_user(token, now).await;
        if let Err(Denied::Token | Denied::Gone) = &result {
            // Whoever has failed too often is not told whether this one would do.
            if let Some(retry_nanos) = self.inner.attempts.blocked(from, now.monotonic) {
                return Err(Denied::TooManyFailures { retry_nanos });
            }
            self.inner.attempts.failed(from, now.monotonic);
        }
        result
    }

    async fn find_user(&self, token: &str, now: Moment) -> Result<Arc<Caller>, Denied> {
        let claimed = Claims::claimed(token).ok_or(Denied::Token)?;
        let known = self.known_tenant(claimed.tid, now).await?;
        let claims = Claims::verify(token, &known.secret).ok_or(Denied::Token)?;
        let (issued_at, expires_at) = (claims.issued_at(), claims.expires_at());
        self.admit_user(&known, claims.sub, issued_at, expires_at, now).await
    }

    /// The caller for a token that was issued so, if it and its tenant are in force.
    pub(crate) async fn admit_user(
        &self,
        known: &KnownTenant,
        user_id: UserId,
        issued_at: Timestamp,
        expires_at: Timestamp,
        now: Moment,
    ) -> Result<Arc<Caller>, Denied> {
        match known.tenant.status {
            TenantStatus::Active => {}
            TenantStatus::Suspended => return Err(Denied::Suspended),
            TenantStatus::Deleting => return Err(Denied::Gone),
        }
        let revoked_at = self.revoked_at(known, &user_id, now).await?.max(known.tokens_revoked_at);
        if expires_at <= now.wall || revoked_at.is_some_and(|revoked| issued_at <= revoked) {
            return Err(Denied::Token);
        }
        Ok(Arc::new(Caller {
            shown: std::sync::OnceLock::new(),
            settings: known.tenant.config.settings(&self.inner.defaults),
            tenant: known.tenant.clone(),
            credential: Credential::Token { user_id, issued_at, expires_at },
            shared: known.shared.clone(),
        }))
    }

    async fn revoked_at(&self, known: &KnownTenant, user: &UserId, now: Moment) -> Result<Option<Timestamp>, Denied> {
        let key = (known.tenant.tenant_id, user.clone());
        if let Some(found) = self.inner.users.get(&key).await
            && !self.is_stale(found.read_at, &known.shared, now)
        {
            return Ok(found.revoked_at);
        }
        let revoked_at = self.inner.store.tenant(key.0).tokens().revoked_at(user).await;
        let revoked_at = revoked_at.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        self.inner.users.insert(key, Arc::new(KnownUser { revoked_at, read_at: now.monotonic })).await;
        Ok(revoked_at)
    }

    /// A tenant as it is now, or was a moment ago.
    pub(crate) async fn known_tenant(&self, tenant: TenantId, now: Moment) -> Result<Arc<KnownTenant>, Denied> {
        if let Some(known) = self.inner.tenants.get(&tenant).await
            && !self.is_stale(known.read_at, &known.shared, now)
        {
            return Ok(known);
        }
        let _lookup = self.inner.lookups.acquire().await.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        // Many ask at once when something has changed: the first ones have read it for the rest.
        if let Some(known) = self.inner.tenants.get(&tenant).await
            && !self.is_stale(known.read_at, &known.shared, now)
        {
            return Ok(known);
        }
        let found = self.inner.store.tenants().find(tenant).await;
        let found = found.map_err(|error| Denied::Unavailable(Arc::new(error)))?.ok_or(Denied::Gone)?;
        let known = Arc::new(KnownTenant {
            tenant: found.tenant,
            secret: found.token_secret,
            tokens_revoked_at: found.tokens_revoked_at,
            shared: self.shared(tenant),
            read_at: now.monotonic,
        });
        self.inner.tenants.insert(tenant, known.clone()).await;
        Ok(known)
    }

    /// Makes a token for a user; the moment it ends.
    ///
    /// # Errors
    ///
    /// [`Denied`] if the tenant's secret cannot be read.
    pub async fn issue_token(
        &self,
        caller: &Caller,
        user: UserId,
        seconds: u32,
        now: Moment,
    ) -> Result<(SecretString, Timestamp), Denied> {
        let tenant = caller.tenant.tenant_id;
        let known = self.known_tenant(tenant, now).await?;
        let claims = Claims::new(tenant, user, now.wall, seconds);
        let token = claims.sign(&known.secret).map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        Ok((token, claims.expires_at()))
    }

    /// Makes a ticket that opens one socket for the user within `seconds`.
    ///
    /// # Errors
    ///
    /// [`Denied::Unavailable`] if it cannot be kept.
    pub async fn issue_ticket(
        &self,
        caller: &Caller,
        user_id: UserId,
        seconds: u32,
        now: Moment,
    ) -> Result<SecretString, Denied> {
        let unavailable = |error: String| Denied::Unavailable(Arc::from(Box::from(error)));
        let secret = random_text(TICKET_SECRET).map_err(|error| unavailable(error.to_string()))?;
        let tenant = caller.tenant.tenant_id;
        let id = tenant.to_string().split_off(TenantId::PREFIX.len());
        let text = SecretString::from(format!("{TICKET}{id}{secret}"));
        let issuer = match &caller.credential {
            Credential::Key { key_id, .. } => Issuer::Key(key_id.clone()),
            Credential::Token { issued_at, expires_at, .. } => {
                Issuer::Token { issued_at: *issued_at, expires_at: *expires_at }
            }
        };
        let ends = now.wall.plus_seconds(i64::from(seconds));
        let kept = self.inner.store.tenant(tenant).tokens();
        let kept = kept.keep_ticket(hash(text.expose_secret()), &Ticket { user_id, issuer }, ends).await;
        kept.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        Ok(text)
    }

    /// Whether a text looks like a ticket.
    #[must_use]
    pub fn is_ticket(text: &str) -> bool {
        text.starts_with(TICKET)
    }

    /// Uses a ticket up: who asked for it, and the user it is for.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn redeem(&self, text: &str, from: IpAddr, now: Moment) -> Result<(Arc<Caller>, UserId), Denied> {
        if let Some(retry_nanos) = self.inner.attempts.blocked(from, now.monotonic) {
            return Err(Denied::TooManyFailures { retry_nanos });
        }
        let redeemed = self.try_redeem(text, now).await;
        if let Err(Denied::Token) = &redeemed {
            self.inner.attempts.failed(from, now.monotonic);
        }
        redeemed
    }

    async fn try_redeem(&self, text: &str, now: Moment) -> Result<(Arc<Caller>, UserId), Denied> {
        let body = text.strip_prefix(TICKET).filter(|body| body.len() == ID_LENGTH + TICKET_SECRET);
        let id = body.and_then(|body| body.get(..ID_LENGTH)).ok_or(Denied::Token)?;
        let tenant: TenantId = format!("{}{id}", TenantId::PREFIX).parse().map_err(|_| Denied::Token)?;
        let ticket = match self.inner.store.tenant(tenant).tokens().use_ticket(hash(text), now.wall).await {
            Ok(ticket) => ticket,
            Err(chatapi_storage::Error::NotFound(_)) => return Err(Denied::Token),
            Err(error) => return Err(Denied::Unavailable(Arc::new(error))),
        };
        let caller = match ticket.issuer {
            Issuer::Key(key_id) => self.admit_key(&key_id, tenant, now).await?,
            Issuer::Token { issued_at, expires_at } => {
                let known = self.known_tenant(tenant, now).await?;
                self.admit_user(&known, ticket.user_id.clone(), issued_at, expires_at, now).await?
            }
        };
        Ok((caller, ticket.user_id))
    }

    /// Whether what let somebody in would still do: for sockets, when something has changed. The
    /// caller as it is now.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn recheck(&self, caller: &Caller, now: Moment) -> Result<Arc<Caller>, Denied> {
        let tenant = caller.tenant.tenant_id;
        match &caller.credential {
            Credential::Key { key_id, .. } => self.admit_key(key_id, tenant, now).await,
            Credential::Token { user_id, issued_at, expires_at } => {
                let known = self.known_tenant(tenant, now).await?;
                self.admit_user(&known, user_id.clone(), *issued_at, *expires_at, now).await
            }
        }
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
