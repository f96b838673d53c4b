//! Runs a command with a throw-away PostgreSQL: `with-postgres cargo nextest run`.

use std::process::ExitCode;

use chatapi_testkit::{SERVER_URL, Server};
use tokio::process::Command;

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: with-postgres COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let server = Server::start().await;
    let mut command = Command::new(&program);
    command.args(words).env(SERVER_URL, server.url());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("with-postgres: cannot start {}: {error}", program.to_string_lossy());
            return ExitCode::from(2);
        }
    };
    // An interrupt at the terminal reaches the command too: it ends, and then we do.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let code = status.ok().and_then(|status| status.code()).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
