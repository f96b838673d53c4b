//! The server: reads the environment, starts logging, assembles the crates, handles signals.

mod config;
mod logging;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (Some(Command::Serve) | None) = arguments.command;
    let config = match Config::read(arguments.env_file.as_deref()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("chatapi cannot start:");
            for error in errors {
                eprintln!("  {error}");
            }
            return ExitCode::from(2);
        }
    };
    let _flush = logging::start(&config.log);
    // A connection is an open file, and the usual limit is 1024. Where it cannot be raised, it stays.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "The limit of open files could not be raised");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chatapi cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("chatapi: {failure}");
            failure.exit_code()
        }
    }
}
