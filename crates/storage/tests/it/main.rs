//! The store on a real `PostgreSQL`.

mod beside;
mod chat;
mod isolation;
mod model;
mod plans;
mod tls;
mod transfer;
mod writer;
