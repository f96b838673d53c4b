//! A question before what cannot be undone.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use clap::Args;

use crate::failure::Failure;

/// Whether somebody is asked first.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Confirmation {
    /// Does it without asking.
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Fails if somebody would have to be asked and nobody is there.
    pub(crate) fn check(self) -> Result<(), Failure> {
        if self.yes || stdin().is_terminal() {
            return Ok(());
        }
        Err(Failure::Usage("this cannot be undone, and there is no terminal to ask at; add --yes".to_owned()))
    }

    /// Whether nobody need be asked.
    pub(crate) const fn is_given(self) -> bool {
        self.yes
    }

    /// Asks, and fails unless the answer is `expected`.
    pub(crate) async fn ask(self, question: String, expected: &str) -> Result<(), Failure> {
        // On a thread of its own, so that an interrupt need not wait for the answer.
        let asking = tokio::task::spawn_blocking(move || ask(&question));
        let answer = asking.await.map_err(|error| Failure::Refused(error.to_string()))?.map_err(Failure::Output)?;
        if answer == expected { Ok(()) } else { Err(Failure::Refused("nothing was changed".to_owned())) }
    }
}

fn ask(question: &str) -> std::io::Result<String> {
    write!(stderr(), "{question}")?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}
