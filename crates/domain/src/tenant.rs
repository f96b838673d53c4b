//! An organisation or application that the operator lets in, and its keys.

use crate::{Config, KeyId, Name, TenantId, Timestamp};

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

/// A change to a tenant: what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct TenantPatch {
    /// The new name.
    pub name: Option<Name>,
    /// The new status.
    pub status: Option<TenantStatus>,
    /// Fields of the configuration; `null` resets one to its default.
    pub config: Option<serde_json::Value>,
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
