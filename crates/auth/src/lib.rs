//! Who is asking: the operator's master key, the tenants' keys, their users' tokens and tickets, what
//! they may still spend.
//!
//! Start at [`Verifier`]. It takes strings and addresses, never HTTP headers. A key that was
//! verified before costs a SHA-256 and a look into memory: no argon2, no SQL.

mod attempts;
mod caller;
mod key;
mod master;
mod token;
mod users;
mod verifier;

pub use caller::{Caller, Credential, Denied};
pub use key::{ApiKey, InvalidKey, NotMade, hash_secret};
pub use master::{InvalidMasterKey, MasterKeys};
pub use verifier::Verifier;

use chatapi_domain::Timestamp;

/// The present, as whoever calls reads it from its clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time of day.
    pub wall: Timestamp,
    /// Nanoseconds of a clock that never goes back; for rates and ages.
    pub monotonic: u64,
}
