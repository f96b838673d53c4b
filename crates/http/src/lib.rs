//! How they ask: a server on raw hyper, one table of routes, JSON, errors.
//!
//! Start at [`Api`] and [`serve`]. [`ROUTES`] is the table of contents; each route is one line
//! there, one arm in `routes.rs` and one handler. A handler reads as the sentence the API promises:
//! errors become answers in `error.rs`, and nowhere else.
//!
//! Nothing here reads the environment, handles signals or knows SQL.

mod api;
mod audit;
mod body;
mod call;
mod clock;
mod cors;
mod cursor;
mod dispatch;
mod error;
mod health;
mod idempotency;
mod limits;
mod metrics;
mod outgoing;
mod pages;
mod patient;
mod proxies;
mod reply;
mod route;
mod routes;
mod server;
mod socket;
mod views;

pub use api::{Api, Options};
pub use clock::now;
pub use error::error_code;
pub use route::{Access, ROUTES, Route, RouteSpec};
pub use server::serve;
pub use views::{CountsView, ImportedView, KeyView, NewKeyView, NewTenantView, TenantView};

/// Pieces that the benches measure by themselves.
#[doc(hidden)]
pub mod bench {
    pub use crate::body::{exceeds_depth, parse};
    pub use crate::route::Router;
    pub use crate::routes::messages::SendBody;
    pub use chatapi_domain::MessageView;
}
