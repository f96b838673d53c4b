//! What takes longer: real processes killed. `make test-slow`.

mod durability;
mod embedded;
mod junk;
