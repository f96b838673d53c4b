//! The built binary as a command that ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{App, binary};

/// Longer than any command may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// What commands are run with. There is no master key among it: they need none.
#[derive(Debug, Clone)]
pub struct CommandLine {
    variables: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl App {
    /// Commands on the server's own database.
    #[must_use]
    pub fn command_line(&self) -> CommandLine {
        match self.database_url() {
            Some(url) => CommandLine::on(&url),
            None => CommandLine::embedded(&self.data_dir()),
        }
    }
}

impl CommandLine {
    /// Commands without any variable.
    #[must_use]
    pub const fn bare() -> Self {
        Self { variables: Vec::new() }
    }

    /// Commands on this database.
    #[must_use]
    pub fn on(url: &str) -> Self {
        Self::bare().set("DATABASE_URL", url)
    }

    /// Commands on the embedded database in this folder.
    #[must_use]
    pub fn embedded(data_dir: &Path) -> Self {
        Self::bare().set("DATA_DIR", data_dir.to_str().expect("a text"))
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs `chatapi` with these words.
    pub async fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, "").await
    }

    /// Runs it with something on its standard input, which is no terminal.
    pub async fn run_with(&self, words: &[&str], input: &str) -> Ran {
        let mut command = Command::new(binary());
        command.args(words);
        self.finish(command, input).await
    }

    /// Runs it at a terminal, where somebody types `typed`; all that is seen is in `stdout`.
    pub async fn run_at_terminal(&self, words: &[&str], typed: &str) -> Ran {
        let line = format!("{} {}", binary().display(), words.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
        self.finish(command, typed).await
    }

    /// Runs it, and sends it SIGTERM after a second.
    pub async fn run_for_a_second(&self, words: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["--preserve-status", "--signal=TERM", "1"]).arg(binary()).args(words);
        self.finish(command, "").await
    }

    async fn finish(&self, mut command: Command, input: &str) -> Ran {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(std::env::temp_dir());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that reads nothing may have ended by now.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends in time").expect("it runs");
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("a text"));
        Ran { code: output.status.code(), stdout, stderr }
    }
}

impl Ran {
    /// Fails unless it did what was asked; what it printed.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "often that it worked is all that matters")]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Fails unless it did what was asked and printed one JSON document.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> Value {
        let text = self.done();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Fails unless it ended with this code, printed nothing, and said this.
    #[track_caller]
    pub fn failed(&self, code: i32, said: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:?}");
        assert!(self.stderr.contains(said), "{said:?} is not in {:?}", self.stderr);
    }
}
