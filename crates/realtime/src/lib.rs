//! Who is connected: the hub, a tail for each room that somebody here follows, presence, typing.
//!
//! Start at [`Hub::start`] and [`Hub::register`]. What is promised to a connection is kept here:
//! the messages of a room come in the order of their seq, each once, without a gap, during and
//! after a [`Sync`] too. A tail makes sure of it for all who follow it, a [`Session`] for its
//! own connection; both are told by the store's change feed and trust only the tables.
//!
//! Nothing here knows of sockets, frames or keys. A queue that is full ends its session: nothing
//! is ever silently dropped.
//!
//! To add an event: its view in `event.rs`, and the arm in `facts.rs` that says who is told.

mod cursor;
mod event;
mod facts;
mod hub;
mod mailbox;
mod presence;
#[cfg(test)]
mod promise;
mod reading;
mod session;
mod sync;
mod tail;
mod typing;

pub use event::Outgoing;
pub use hub::{Hub, HubStatus, LimitReached, Limits};
pub use mailbox::Stop;
pub use session::Session;
pub use sync::{Answer, Fetch, Since, Step, Sync, Wanted};
