//! An organisation or application that the operator lets in, and its keys.

use serde_json::Value;

use crate::{Config, Invalid, KeyId, Name, TenantId, Timestamp};

/// Whether a tenant may do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantStatus {
    /// Served.
    Active,
    /// Switched off by the operator; its data stays.
    Suspended,
    /// Being erased; no request of it succeeds.
    Deleting,
}

impl TenantStatus {
    /// The word in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
        }
    }

    /// The status of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Active, Self::Suspended, Self::Deleting].into_iter().find(|status| status.as_str() == word)
    }
}

/// One tenant. Everything else belongs to exactly one of these.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub tenant_id: TenantId,
    /// What the operator calls it; need not be unique.
    pub name: Name,
    /// Whether it is served.
    pub status: TenantStatus,
    /// What was set for it; the rest follows the server's defaults.
    pub config: Config,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Tenant {
    /// A new tenant, made `now`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if the name or a field of the configuration is wrong.
    pub fn new(tenant_id: TenantId, name: String, config: Option<&Value>, now: Timestamp) -> Result<Self, Invalid> {
        Ok(Self {
            tenant_id,
            name: Name::parse("name", name)?,
            status: TenantStatus::Active,
            config: config.map(Config::parse).transpose()?.unwrap_or_default(),
            created_at: now,
        })
    }
}

/// A change to a tenant: what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct TenantPatch {
    /// The new name.
    pub name: Option<Name>,
    /// The new status.
    pub status: Option<TenantStatus>,
    /// Fields of the configuration; `null` resets one to its default.
    pub config: Option<Value>,
}

/// One API key of a tenant, as it is shown: without its secret.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// The public part of the key.
    pub key_id: KeyId,
    /// What it is called.
    pub name: Option<Name>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used; up to some seconds late.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// One API key of a tenant, as the database knows it.
#[derive(Debug, Clone)]
pub struct TenantKey {
    /// The public part of the key.
    pub key_id: KeyId,
    /// The argon2id hash of the secret part, as a PHC string.
    pub secret_hash: String,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl TenantKey {
    /// Reads from when on a new key is to be refused.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no moment after `now`; `field` names it in the error.
    pub fn parse_expiry(field: &str, text: &str, now: Timestamp) -> Result<Timestamp, Invalid> {
        let at = Timestamp::parse(field, text)?;
        if at > now { Ok(at) } else { Err(Invalid::new(field, "expected a time in the future")) }
    }
}

/// How long a rotated key goes on beside the one that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace(i64);

impl Grace {
    /// A week, in seconds.
    const LONGEST: i64 = 604_800;

    /// A grace of so many seconds.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is longer than a week; `field` names it in the error.
    pub fn parse(field: &str, seconds: i64) -> Result<Self, Invalid> {
        let right = (0..=Self::LONGEST).contains(&seconds);
        right.then_some(Self(seconds)).ok_or_else(|| {
            let reason = format!("expected 0 to {} seconds", Self::LONGEST);
            Invalid::new(field, reason)
        })
    }

    /// When it is over.
    #[must_use]
    pub const fn ends(self, now: Timestamp) -> Timestamp {
        now.plus_seconds(self.0)
    }
}

impl Default for Grace {
    /// A day.
    fn default() -> Self {
        Self(86_400)
    }
}
