//! The client against a server that drops, repeats and reorders.

mod commands;
mod ends;
mod http;
mod order;
mod reader;
mod schedules;
mod server;
mod world;
