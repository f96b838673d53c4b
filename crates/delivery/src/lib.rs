//! Who is told later: what is in the tenants' outboxes goes to their endpoints, as webhooks.
//!
//! Start at [`Dispatcher::start`]. It knows no inbound HTTP, and holds nothing that must not be lost:
//! what is to be told, and when it is tried again, stands in the database, and any node may do it.
//!
//! To add an event: a variant of `WebhookEvent`, the place in `storage` that puts it into the outbox,
//! and what it says in `body.rs`.

mod body;
mod bounded;
mod dispatcher;
mod endpoint;
mod resolver;
mod schedule;
mod signature;
mod tenant;
mod worker;

pub use body::Body;
pub use dispatcher::{Dispatcher, Options, Status};
pub use endpoint::{Answer, NotTried};
