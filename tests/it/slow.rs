//! What takes longer: real processes killed. `make test-slow`.

mod chaos;
mod deletion;
mod durability;
mod embedded;
mod examples;
mod junk;
