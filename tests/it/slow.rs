//! What takes longer: real processes killed. `make test-slow`.

mod chaos;
mod command_line;
mod deletion;
mod deploy;
mod durability;
mod embedded;
mod examples;
mod junk;
mod quota;
mod transfer;
mod webhooks;
