//! The server and its command line: reads the environment, starts logging, assembles the crates,
//! handles signals.

mod commands;
mod config;
mod embedded;
mod failure;
mod logging;
mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A self-hosted, multi-tenant chat backend on `PostgreSQL`.
#[derive(Debug, Parser)]
#[command(name = "chatapi", version)]
struct Arguments {
    /// Reads variables from this file; those of the environment come first.
    #[arg(long, value_name = "FILE", global = true)]
    env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the API; what `chatapi` alone does.
    Serve,
    #[command(flatten)]
    Other(commands::Command),
}

fn main() -> ExitCode {
    let Arguments { env_file, command } = Arguments::parse();
    let done = match command {
        Some(Command::Serve) | None => serve(env_file.as_deref()),
        Some(Command::Other(command)) => commands::run(command, env_file.as_deref()),
    };
    done.map_or_else(
        |failure| {
            eprintln!("chatapi: {failure}");
            failure.exit_code()
        },
        |()| ExitCode::SUCCESS,
    )
}

fn serve(env_file: Option<&Path>) -> Result<(), Failure> {
    let (config, master) = Config::read_for_server(env_file).map_err(Failure::Configuration)?;
    let _flush = logging::start(&config.log);
    // A connection is an open file, and the usual limit is 1024. Where it cannot be raised, it stays.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "The limit of open files could not be raised");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    runtime.block_on(serve::run(config, master))
}
