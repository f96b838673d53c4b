//! How a chat is kept: Postgres repositories, each bound to one tenant.
//!
//! Start at [`Store::connect`] and [`Store::tenant`]. A repository of rooms, members, messages or
//! receipts can only be had from a [`TenantStore`]: that no query forgets its tenant is a matter
//! of types, not of habit. Only [`Tenants`], [`Keys`], [`Transfer`], [`Deliveries`], the [`Feed`] and the background work see
//! more than one tenant. Nothing here knows of HTTP, and no type of the driver leaves this crate.
//!
//! Acknowledged means durable: a method that returns `Ok` has committed.
//!
//! To add a repository: a file named for the noun, a method on [`TenantStore`], its statements as
//! constants beside the methods, and a line in `tests/it/isolation.rs`.

mod audit;
mod connect;
mod db;
mod dead_letters;
mod deliveries;
mod erasure;
mod error;
mod feed;
mod idempotency;
mod keys;
mod looks;
mod members;
mod messages;
mod meter;
mod migrate;
mod nodes;
mod outbox;
mod presence;
mod quota;
mod receipts;
mod retention;
mod rooms;
mod row;
mod store;
mod sweeper;
mod tenants;
mod tokens;
mod transfer;
mod usage;
mod writer;

pub use audit::{Audit, AuditAction, AuditEntry};
pub use connect::{Connector, InvalidUrl};
pub use db::{PoolStatus, Work, measured};
pub use dead_letters::{DeadLetter, DeadLetters};
pub use deliveries::{Claim, Deliveries, Delivery, Failure, Floor, Taken};
pub use error::Error;
pub use feed::{Feed, Position, Signal, Subscription, Told};
pub use idempotency::{Answer, Begun, Idempotency, Reservation, Shows};
pub use keys::{FoundKey, Keys};
pub use looks::Extent;
pub use members::Members;
pub use messages::{History, Messages};
pub use meter::{Meter, OpenConnection};
pub use migrate::Schema;
pub use nodes::{Node, TenantUser};
pub use presence::{Presence, Status};
pub use receipts::Receipts;
pub use rooms::{RoomCursor, Rooms};
pub use store::{Options, Store, TenantStore};
pub use tenants::{FoundTenant, Tenants};
pub use tokens::{Issuer, Ticket, Tokens};
pub use transfer::{Counts, Export, Imported, Transfer};
pub use usage::{Granularity, Usage, UsageLog};
pub use writer::{Appended, QueueStatus};

/// What the benchmark compares with: the same statement and session, without the writer.
#[doc(hidden)]
pub mod bench {
    pub use crate::connect::SESSION;
    pub use crate::writer::ONE;
}

/// What every call here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
