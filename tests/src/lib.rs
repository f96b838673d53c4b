//! What the end-to-end tests share: the built binary as a running process, and its callers.

mod answer;
mod app;
mod caller;
mod command_line;
mod round_robin;
mod socket;

pub use answer::Answer;
pub use app::{App, Builder, MASTER_KEY, binary};
pub use caller::{Caller, Tenant};
pub use command_line::{CommandLine, Ran};
pub use round_robin::RoundRobin;
pub use socket::{Refused, Socket};
