//! The result of a command, on standard output: for people, or one JSON document.

use std::io::{ErrorKind, Write};

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;

/// How the result is shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Prints one JSON document, with the field names of the REST API.
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Whether it is for a script.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints the result: `view` as JSON, or what `human` makes of it.
    pub(crate) fn print(self, view: &impl Serialize, human: impl FnOnce() -> String) -> Result<(), Failure> {
        if !self.json {
            return print(&human());
        }
        let text = serde_json::to_string(view).map_err(|error| Failure::Output(error.into()))?;
        print(&format!("{text}\n"))
    }
}

/// Writes to standard output. A reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Rows under each other, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A cell of something that may be absent.
pub(crate) fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_lines_have_no_trailing_space() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);

        let table = table(&[row(["NAME", "STATUS", "AT"]), row(["Müller & Söhne", "active", ""])]);

        assert_eq!(table, "NAME            STATUS  AT\nMüller & Söhne  active\n");
    }
}
