//! One module a promise of the contract, run against the built binary over real HTTP.

mod auth;
mod command_line;
mod conventions;
mod errors;
mod guide;
mod idempotency;
mod isolation;
mod live;
mod members;
mod messages;
mod operations;
mod operator;
mod rate_limits;
mod receipts;
mod rooms;
mod slow;
mod socket;
mod sync;
mod tenants;
mod transfer;
mod usage;
mod webhooks;
