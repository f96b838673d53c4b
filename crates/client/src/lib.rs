//! The Rust client of ChatAPI: typed REST, and a socket that comes back by itself and loses nothing.
//!
//! Start at [`Client`]; [`Client::connect`] gives a [`Live`], whose events are in order for each
//! room, each once, without a gap, however often the connection breaks. It speaks to the server
//! through the public contract alone and shares no code with it.
//!
//! To add a call: a method on [`Client`] in the file of its noun. To add an event: a variant of
//! [`Event`] and a line in `event.rs`; if it is numbered, `track.rs` puts it in order.
//!
//! Times are as the server writes them: RFC 3339, UTC, microseconds, so that text order is time
//! order. Secrets are [`SecretString`](secrecy::SecretString)s and appear in no `Debug` and no error;
//! the WebSocket library, however, writes its handshake to the `log` facade at level `trace`, so a
//! program that collects those logs should keep `tungstenite` at `debug` or above.

mod backoff;
mod client;
mod command;
mod connection;
mod error;
mod event;
mod live;
mod members;
mod messages;
mod options;
mod position;
mod receipts;
mod rooms;
mod session;
mod socket;
mod tenants;
mod tokens;
mod track;
mod tracker;
mod wire;

pub use backoff::Backoff;
pub use client::{Client, Credentials};
pub use error::{Error, Result};
pub use event::{Event, Typing};
pub use live::Live;
pub use members::{Member, MemberPage, Role};
pub use messages::{Change, ChangePage, History, Message, MessageEdit, MessagePage, NewMessage, Order};
pub use options::{ConnectOptions, TokenSource};
pub use position::Position;
pub use receipts::{Acked, Presence, Receipt, ReceiptKind, ReceiptPage};
pub use rooms::{ListedRoom, NewRoom, OwnPlace, Room, RoomPage, RoomType, RoomUpdate};
pub use tenants::NewTenant;
pub use tokens::{SocketTicket, UserToken};
