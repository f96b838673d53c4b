//! For tests only: a throw-away PostgreSQL, a database per test, a proxy that cuts connections, an
//! endpoint for webhooks.
//!
//! `with-postgres COMMAND…` runs a whole test run against one server; a test that is run without
//! it starts a server of its own. Either way the server ends with the process that started it.

mod cutter;
mod database;
mod receiver;
mod server;

pub use cutter::Cutter;
pub use database::Database;
pub use receiver::{Behaviour, Call, Receiver};
pub use server::Server;

/// The environment variable in which `with-postgres` hands its server's URL to the tests.
pub const SERVER_URL: &str = "CHATAPI_TEST_SERVER";
