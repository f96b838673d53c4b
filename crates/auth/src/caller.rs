//! Who asks, and why somebody is not let in.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use chatapi_domain::{Bucket, KeyId, Settings, Tenant, Timestamp, UserId, Verdict};

use chatapi_storage::Meter;

use crate::Moment;

/// Who asks: a tenant's backend, or one of its users, with the settings in force.
#[derive(Debug)]
pub struct Caller {
    /// The tenant, as it was when it was last read.
    pub tenant: Tenant,
    /// What was presented.
    pub credential: Credential,
    /// What is in force for the tenant.
    pub settings: Settings,
    /// What the tenant is shown of itself, encoded once for as long as this is remembered.
    pub shown: OnceLock<Box<[u8]>>,
    pub(crate) shared: Arc<OfTenant>,
}

/// What lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A key of the tenant: its backend, in the name of any user.
    Key {
        /// The key's public part.
        key_id: KeyId,
        /// When it ends, if it does.
        expires_at: Option<Timestamp>,
    },
    /// A user token: this user and no other.
    Token {
        /// The user.
        user_id: UserId,
        /// When it was issued.
        issued_at: Timestamp,
        /// When it ends.
        expires_at: Timestamp,
    },
}

impl Credential {
    /// When it ends, if it does.
    #[must_use]
    pub const fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::Key { expires_at, .. } => *expires_at,
            Self::Token { expires_at, .. } => Some(*expires_at),
        }
    }

    /// The one user it stands for, if it is a user token.
    #[must_use]
    pub const fn user(&self) -> Option<&UserId> {
        match self {
            Self::Key { .. } => None,
            Self::Token { user_id, .. } => Some(user_id),
        }
    }
}

impl Caller {
    /// Charges the tenant for one request. The bucket is one for all its keys and tokens; of
    /// several `nodes` each has its share.
    #[must_use]
    pub fn charge(&self, nodes: usize, now: Moment) -> Verdict {
        let verdict = self.shared.bucket.take(self.settings.rate.shared_by(nodes), now.monotonic);
        self.shared.meter.request(verdict.allowed);
        verdict
    }

    /// What counts the tenant's use on this node.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.shared.meter
    }
}

/// What all that is remembered of one tenant shares.
#[derive(Debug)]
pub(crate) struct OfTenant {
    pub(crate) bucket: Bucket,
    pub(crate) meter: Arc<Meter>,
    /// What was read before this moment of the monotonic clock may be wrong by now.
    stale_before: AtomicU64,
}

impl OfTenant {
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        Self { bucket: Bucket::default(), meter, stale_before: AtomicU64::new(0) }
    }

    pub(crate) fn outdate(&self, since: u64) {
        self.stale_before.fetch_max(since, Relaxed);
    }

    pub(crate) fn stale_before(&self) -> u64 {
        self.stale_before.load(Relaxed)
    }
}

/// Why a caller is not let in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Denied {
    /// Nothing was presented.
    #[error("no key was presented")]
    Missing,
    /// What was presented opens nothing; the reason is for the log, not for the caller.
    #[error("{0}")]
    Invalid(&'static str),
    /// The user token is none of ours, is over, or was revoked.
    #[error("invalid or expired token")]
    Token,
    /// The tenant is gone, or going: its keys look like keys that never were.
    #[error("tenant not found")]
    Gone,
    /// The key is right, but its tenant is switched off.
    #[error("tenant suspended")]
    Suspended,
    /// This address has failed too often.
    #[error("too many failed attempts")]
    TooManyFailures {
        /// When it may try again, in nanoseconds.
        retry_nanos: u64,
    },
    /// Nobody can say at the moment.
    #[error("the key could not be verified")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
}
