//! `chatapi completions`

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::output::print;
use crate::Arguments;
use crate::failure::Failure;

/// Prints the script with which a shell completes commands and options.
pub(super) fn print_script(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "chatapi", &mut script);
    print(&String::from_utf8_lossy(&script))
}
