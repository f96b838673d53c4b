//! The command line for operators: what it can do beside serving.
//!
//! A command works on the database itself, whether a server runs or not. To add one: a variant of
//! [`Command`], its arm in [`run`], and a function in the file of its noun that is given a
//! [`Session`]. What changes tenants or keys goes through [`Session::change`], which notes it in
//! the audit log. What a script reads has the field names of the REST API, from the views of
//! `chatapi_http`. `docs/command-line.md` shows each command.

mod check;
mod completions;
mod confirm;
mod key;
mod master_key;
mod migrate;
mod output;
mod session;
mod tenant;
mod transfer;

use std::path::Path;

use clap::Subcommand;
use clap_complete::Shell;

use self::output::Output;
use self::session::Session;
use crate::config::Config;
use crate::failure::Failure;
use crate::logging;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Brings the database's schema up to date; makes the embedded database if there is none.
    Migrate(Output),
    /// Looks at the configuration and the database, and says what is wrong.
    Check(Output),
    /// Makes, lists, suspends, resumes and deletes tenants.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Makes, lists, rotates and revokes a tenant's API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Writes a whole tenant as lines of JSON, as it is at this moment.
    Export(transfer::ExportCommand),
    /// Brings back what was exported, all or nothing, with a new API key.
    Import(transfer::ImportCommand),
    /// Reads a master key from standard input and prints what `MASTER_API_KEY_HASH` is set to.
    HashMasterKey(Output),
    /// Prints the completions of a shell.
    Completions {
        /// Which shell's.
        shell: Shell,
    },
}

/// Does what was asked.
pub(crate) fn run(command: Command, env_file: Option<&Path>) -> Result<(), Failure> {
    logging::start_for_command();
    match command {
        Command::HashMasterKey(output) => return master_key::hash(output),
        Command::Completions { shell } => return completions::print_script(shell),
        Command::Migrate(_)
        | Command::Check(_)
        | Command::Tenant(_)
        | Command::Key(_)
        | Command::Export(_)
        | Command::Import(_) => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let done = runtime.block_on(on_database(command, env_file));
    // Somebody may still be asked something, and never answer.
    runtime.shutdown_background();
    done
}

async fn on_database(command: Command, env_file: Option<&Path>) -> Result<(), Failure> {
    if let Command::Check(output) = command {
        return check::run(output, env_file).await;
    }
    command.check_usage()?;
    let config = Config::read(env_file).map_err(Failure::Configuration)?;
    match command {
        Command::Migrate(output) => migrate::run(output, config).await,
        Command::Tenant(command) => Session::run(config, async |session| tenant::run(command, session).await).await,
        Command::Key(command) => Session::run(config, async |session| key::run(command, session).await).await,
        Command::Export(command) => {
            Session::run(config, async |session| transfer::export(command, session).await).await
        }
        Command::Import(command) => {
            Session::run(config, async |session| transfer::import(command, session).await).await
        }
        Command::Check(_) | Command::HashMasterKey(_) | Command::Completions { .. } => Ok(()),
    }
}

impl Command {
    /// Fails if the command cannot be done as it was asked, before anything is: if it would have to ask
    /// somebody and nobody is there, say.
    fn check_usage(&self) -> Result<(), Failure> {
        match self {
            Self::Tenant(tenant::TenantCommand::Delete { confirmation, .. })
            | Self::Key(key::KeyCommand::Revoke { confirmation, .. }) => confirmation.check(),
            Self::Export(command) => command.check(),
            _ => Ok(()),
        }
    }
}
