//! What takes longer: real processes killed. `make test-slow`.

mod chaos;
mod durability;
mod embedded;
mod examples;
mod junk;
mod transfer;
