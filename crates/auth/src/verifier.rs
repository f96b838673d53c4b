//! From what a caller presents to who it is.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

use chatapi_domain::{Defaults, Fact, KeyId, TenantId, TenantKey, TenantStatus, Timestamp, UserId};
use chatapi_storage::{FoundKey, Signal, Store, Told};
use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;

use crate::attempts::Attempts;
use crate::caller::OfTenant;
use crate::key::verify_secret;
use crate::users::{KnownTenant, KnownUser};
use crate::{ApiKey, Caller, Credential, Denied, MasterKeys, Moment};

/// Verified keys remembered; some 1 KiB each.
const MAX_KEYS: u64 = 100_000;

/// From this age on an entry is read again in the background, without argon2; at twice the age
/// before it is used. What changes is told by the change feed, at once; this is the net under it.
const FRESH: u64 = 15_000_000_000;

/// An entry older than this is not used while nothing is told.
const FRESH_WHEN_DEAF: u64 = 500_000_000;

/// How often it is noted when keys were last used.
const NOTE: Duration = Duration::from_secs(5);

/// Tenants and users remembered for checking tokens.
const MAX_USERS: u64 = 100_000;

/// A key nobody used for this long is forgotten.
const IDLE: Duration = Duration::from_hours(1);

/// Look-ups of unknown keys at once: a stream of them may not fill the pool.
const LOOKUPS: usize = 4;

/// A key that was verified, with what was read then.
#[derive(Debug)]
struct Known {
    caller: Arc<Caller>,
    secret_hash: String,
    read_at: u64,
    refreshing: AtomicBool,
    /// When it last let somebody in, and when that was last noted; microseconds of the time of day.
    used_at: AtomicI64,
    noted_at: AtomicI64,
    /// Held by the one who reads it again; the others wait for that.
    reading: tokio::sync::Mutex<()>,
}

/// Finds out who asks. One a process.
#[derive(Debug, Clone)]
pub struct Verifier {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    master: MasterKeys,
    pub(crate) defaults: Defaults,
    /// By the SHA-256 of the whole key.
    known: Cache<[u8; 32], Arc<Known>>,
    /// Keys whose secret is wrong: not worth another argon2.
    wrong: moka::sync::Cache<[u8; 32], ()>,
    /// Keys looked up by their id, for sockets that are checked again, by what was known then.
    by_id: Cache<(KeyId, u64), Arc<Known>>,
    pub(crate) tenants: Cache<TenantId, Arc<KnownTenant>>,
    pub(crate) users: Cache<(TenantId, UserId), Arc<KnownUser>>,
    shared: moka::sync::Cache<TenantId, Arc<OfTenant>>,
    /// As of one tenant, for all.
    stale_before: AtomicU64,
    pub(crate) attempts: Attempts,
    pub(crate) lookups: Semaphore,
    hashing: Semaphore,
    tasks: TaskTracker,
}

impl Verifier {
    /// A verifier over the keys in `store`. Background reads run on `tasks`.
    #[must_use]
    pub fn new(store: Store, master: MasterKeys, defaults: Defaults, tasks: TaskTracker) -> Self {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            inner: Arc::new(Inner {
                store,
                master,
                defaults,
                known: Cache::builder().max_capacity(MAX_KEYS).time_to_idle(IDLE).build(),
                wrong: moka::sync::Cache::builder().max_capacity(10_000).time_to_live(Duration::from_mins(1)).build(),
                by_id: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(1)).build(),
                tenants: Cache::builder().max_capacity(MAX_USERS).time_to_idle(IDLE).build(),
                users: Cache::builder().max_capacity(MAX_USERS).time_to_idle(IDLE).build(),
                shared: moka::sync::Cache::builder().max_capacity(1_000_000).time_to_idle(IDLE * 2).build(),
                stale_before: AtomicU64::new(0),
                attempts: Attempts::new(),
                lookups: Semaphore::new(LOOKUPS),
                hashing: Semaphore::new(cores.div_ceil(2)),
                tasks,
            }),
        }
    }

    /// Forgets what is told to have changed, as long as the store lives. `now` reads the clock that
    /// callers take their [`Moment`]s from.
    pub async fn follow(self, mut told: Told, now: fn() -> Moment) {
        while let Some(signal) = told.next().await {
            match &*signal {
                Signal::Fact { tenant_id, fact: Fact::TenantChanged | Fact::TokensRevoked { .. } } => {
                    self.outdate(*tenant_id, now().monotonic);
                }
                Signal::Missed => _ = self.inner.stale_before.fetch_max(now().monotonic, Ordering::Relaxed),
                Signal::Fact { .. } | Signal::Position(_) | Signal::Stored { .. } | Signal::Changed { .. } => {}
            }
        }
    }

    /// Reads again what is known of a tenant, its keys and users, before it is next used: at once
    /// on the node that changed it.
    ///
    /// `since` is of the clock of [`Moment::monotonic`].
    pub fn outdate(&self, tenant: TenantId, since: u64) {
        self.shared(tenant).outdate(since);
    }

    /// Changes whenever something of the caller's tenant may have: what is remembered of one epoch says
    /// nothing of another. Of a tenant that was deleted and brought back it is never the same.
    #[must_use]
    pub fn epoch(&self, caller: &Caller) -> u64 {
        caller.shared.stale_before().max(self.inner.stale_before.load(Ordering::Relaxed))
    }

    pub(crate) fn shared(&self, tenant: TenantId) -> Arc<OfTenant> {
        self.inner.shared.get_with(tenant, || Arc::new(OfTenant::new(self.inner.store.meter(tenant))))
    }

    /// Whether what was read then must be read again before it is used.
    pub(crate) fn is_stale(&self, read_at: u64, shared: &OfTenant, now: Moment) -> bool {
        let limit = if self.inner.store.feed().is_listening() { 2 * FRESH } else { FRESH_WHEN_DEAF };
        let outdated = shared.stale_before().max(self.inner.stale_before.load(Ordering::Relaxed));
        read_at <= outdated || now.monotonic.saturating_sub(read_at) > limit
    }

    /// What is in force where a tenant sets nothing.
    #[must_use]
    pub fn defaults(&self) -> &Defaults {
        &self.inner.defaults
    }

    /// The tenant whose key this is.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn tenant(&self, key: Option<&str>, from: IpAddr, now: Moment) -> Result<Arc<Caller>, Denied> {
        let key = key.ok_or(Denied::Missing)?;
        let result = self.find(key, from, now).await;
        match &result {
            Ok(caller) => {
                // Shown as the guide shows it, at level info, but only to those who debug.
                if tracing::enabled!(tracing::Level::DEBUG) {
                    let key_id = ApiKey::parse(key).ok().map(|key| key.key_id().to_string());
                    tracing::info!(tenant_id = %caller.tenant.tenant_id, key_id, "Tenant validated");
                }
            }
            Err(denied @ (Denied::Invalid(_) | Denied::Gone | Denied::Suspended)) => {
                let key_id = ApiKey::parse(key).ok().map(|key| key.key_id().to_string());
                tracing::error!(error = %denied, key_id, "Invalid API key");
            }
            Err(Denied::Missing | Denied::Token | Denied::TooManyFailures { .. } | Denied::Unavailable(_)) => {}
        }
        result
    }

    async fn find(&self, key: &str, from: IpAddr, now: Moment) -> Result<Arc<Caller>, Denied> {
        let fingerprint: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let Some(known) = self.inner.known.get(&fingerprint).await else {
            // Boxed, as below: the way of a known key stays small.
            return Box::pin(self.meet(key, fingerprint, from, now)).await;
        };
        if self.is_stale(known.read_at, &known.caller.shared, now) {
            return Box::pin(self.read_at_once(key, fingerprint, &known, now)).await;
        }
        let age = now.monotonic.saturating_sub(known.read_at);
        if age > FRESH && !known.refreshing.swap(true, Ordering::Relaxed) {
            let (this, key, known) = (self.clone(), SecretString::from(key), known.clone());
            self.inner.tasks.spawn(async move {
                // An error shows when the entry is too old to be used.
                let _ = this.read_again(key.expose_secret(), fingerprint, &known, now).await;
                known.refreshing.store(false, Ordering::Relaxed);
            });
        }
        match known.caller.credential.expires_at() {
            Some(expiry) if expiry <= now.wall => Err(Denied::Invalid("key expired")),
            _ => {
                known.used_at.store(now.wall.as_micros(), Ordering::Relaxed);
                Ok(known.caller.clone())
            }
        }
    }

    /// Notes when keys were last used, for ever: a request itself writes nothing.
    pub async fn keep_noting(self) {
        loop {
            tokio::time::sleep(NOTE).await;
            let mut used = Vec::new();
            for (_, known) in &self.inner.known {
                let at = known.used_at.load(Ordering::Relaxed);
                if let Credential::Key { key_id, .. } = &known.caller.credential
                    && known.noted_at.swap(at, Ordering::Relaxed) < at
                {
                    used.push((known.caller.tenant.tenant_id, key_id.clone(), Timestamp::from_micros(at)));
                }
            }
            if !used.is_empty()
                && let Err(error) = self.inner.store.keys().used(&used).await
            {
                tracing::debug!(%error, "When keys were used could not be noted");
            }
        }
    }

    /// Verifies a key that was not seen before. Equal keys at once are one flight.
    async fn meet(&self, key: &str, fingerprint: [u8; 32], from: IpAddr, now: Moment) -> Result<Arc<Caller>, Denied> {
        let first = self.inner.known.try_get_with(fingerprint, self.verify(key, fingerprint, from, now));
        match first.await {
            Ok(known) => Ok(known.caller.clone()),
            Err(denied) => Err((*denied).clone()),
        }
    }

    async fn verify(&self, key: &str, fingerprint: [u8; 32], from: IpAddr, now: Moment) -> Result<Arc<Known>, Denied> {
        let inner = &*self.inner;
        let failed = |denied: Denied| {
            inner.attempts.failed(from, now.monotonic);
            denied
        };
        let _lookup = self.permit_if_allowed(&inner.lookups, from, now).await?;
        let presented = ApiKey::parse(key).map_err(|_| failed(Denied::Invalid("tenant not found")))?;
        if inner.wrong.contains_key(&fingerprint) {
            return Err(failed(Denied::Invalid("wrong secret")));
        }
        let found = self.lookup(&presented).await?.ok_or_else(|| failed(Denied::Invalid("tenant not found")))?;
        if !self.secret_fits(presented.secret().clone(), found.key.secret_hash.clone()).await? {
            inner.wrong.insert(fingerprint, ());
            return Err(failed(Denied::Invalid("wrong secret")));
        }
        self.admit(found, now)
    }

    /// Reads the state of a key again; many who ask at once share one look.
    async fn read_at_once(
        &self,
        key: &str,
        fingerprint: [u8; 32],
        known: &Known,
        now: Moment,
    ) -> Result<Arc<Caller>, Denied> {
        let _one = known.reading.lock().await;
        match self.inner.known.get(&fingerprint).await {
            Some(newer) if !self.is_stale(newer.read_at, &newer.caller.shared, now) => Ok(newer.caller.clone()),
            _ => self.read_again(key, fingerprint, known, now).await,
        }
    }

    /// The caller that a key stands for whose secret was checked before.
    pub(crate) async fn admit_key(&self, key_id: &KeyId, tenant: TenantId, now: Moment) -> Result<Arc<Caller>, Denied> {
        let inner = &*self.inner;
        let known_then = self.shared(tenant).stale_before().max(inner.stale_before.load(Ordering::Relaxed));
        let look = async {
            let found = inner.store.keys().find(key_id).await.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
            let found = found.filter(|found| found.tenant.tenant_id == tenant).ok_or(Denied::Gone)?;
            self.admit(found, now)
        };
        let known = inner.by_id.try_get_with((key_id.clone(), known_then), look).await;
        known.map(|known| known.caller.clone()).map_err(|denied| (*denied).clone())
    }

    /// Reads the state of a key again: no argon2, if its hash is still the one it was verified
    /// against.
    async fn read_again(
        &self,
        key: &str,
        fingerprint: [u8; 32],
        known: &Known,
        now: Moment,
    ) -> Result<Arc<Caller>, Denied> {
        let presented = ApiKey::parse(key).map_err(|_| Denied::Invalid("tenant not found"))?;
        let found = self.lookup(&presented).await?.filter(|found| found.key.secret_hash == known.secret_hash);
        let admitted = found.ok_or(Denied::Invalid("tenant not found")).and_then(|found| self.admit(found, now));
        match admitted {
            Ok(known) => {
                self.inner.known.insert(fingerprint, known.clone()).await;
                Ok(known.caller.clone())
            }
            Err(denied) => {
                self.inner.known.invalidate(&fingerprint).await;
                Err(denied)
            }
        }
    }

    async fn lookup(&self, key: &ApiKey) -> Result<Option<FoundKey>, Denied> {
        let found = self.inner.store.keys().find(key.key_id()).await;
        found.map_err(|error| Denied::Unavailable(Arc::new(error)))
    }

    /// The caller that a verified key stands for, if key and tenant are in force.
    fn admit(&self, found: FoundKey, now: Moment) -> Result<Arc<Known>, Denied> {
        let FoundKey { key, tenant } = found;
        if key.revoked_at.is_some() {
            return Err(Denied::Invalid("key revoked"));
        }
        if key.expires_at.is_some_and(|expiry| expiry <= now.wall) {
            return Err(Denied::Invalid("key expired"));
        }
        match tenant.status {
            TenantStatus::Active => {}
            TenantStatus::Suspended => return Err(Denied::Suspended),
            TenantStatus::Deleting => return Err(Denied::Gone),
        }
        let caller = Caller {
            shown: OnceLock::new(),
            credential: Credential::Key { key_id: key.key_id, expires_at: key.expires_at },
            settings: tenant.config.settings(&self.inner.defaults),
            shared: self.shared(tenant.tenant_id),
            tenant,
        };
        Ok(Arc::new(Known {
            caller: Arc::new(caller),
            secret_hash: key.secret_hash,
            read_at: now.monotonic,
            refreshing: AtomicBool::new(false),
            used_at: AtomicI64::new(now.wall.as_micros()),
            noted_at: AtomicI64::new(0),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    /// Checks that this is the operator.
    ///
    /// # Errors
    ///
    /// [`Denied`].
    pub async fn operator(&self, key: Option<&str>, from: IpAddr, now: Moment) -> Result<(), Denied> {
        let master = &self.inner.master;
        let key = key.ok_or(Denied::Missing)?;
        if master.is_known(key) {
            return Ok(());
        }
        let fits = {
            let _permit = self.permit_if_allowed(&self.inner.lookups, from, now).await?;
            master.has_hash() && self.fits_master_hash(key.into()).await?
        };
        if fits {
            return Ok(());
        }
        self.inner.attempts.failed(from, now.monotonic);
        tracing::error!(address = %from, "Invalid master key");
        Err(Denied::Invalid("wrong master key"))
    }

    /// A permit, unless the address has failed too often, before or while it waited.
    async fn permit_if_allowed<'a>(
        &self,
        permits: &'a Semaphore,
        from: IpAddr,
        now: Moment,
    ) -> Result<SemaphorePermit<'a>, Denied> {
        let check = || match self.inner.attempts.blocked(from, now.monotonic) {
            Some(retry_nanos) => Err(Denied::TooManyFailures { retry_nanos }),
            None => Ok(()),
        };
        check()?;
        let permit = permits.acquire().await.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        check()?;
        Ok(permit)
    }

    async fn secret_fits(&self, secret: SecretString, hash: String) -> Result<bool, Denied> {
        self.hash(move || verify_secret(&secret, &hash)).await
    }

    async fn fits_master_hash(&self, key: SecretString) -> Result<bool, Denied> {
        let inner = self.inner.clone();
        self.hash(move || inner.master.fits_hash(&key)).await
    }

    /// Makes a new key, as [`ApiKey::make`] does, where that blocks nobody.
    ///
    /// # Errors
    ///
    /// [`Denied::Unavailable`] if the system has no randomness or memory for it.
    pub async fn new_key(&self, expires_at: Option<Timestamp>) -> Result<(ApiKey, TenantKey), Denied> {
        let made = self.hash(move || ApiKey::make(expires_at));
        made.await?.map_err(|error| Denied::Unavailable(Arc::new(error)))
    }

    /// Runs an argon2 on a thread where it blocks nobody, few at a time.
    async fn hash<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Denied> {
        let _permit = self.inner.hashing.acquire().await.map_err(|error| Denied::Unavailable(Arc::new(error)))?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Denied::Unavailable(Arc::new(error)))
    }
}
