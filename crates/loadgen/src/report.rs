//! The figures as a page.

use std::fmt::Write;
use std::process::Command;

use crate::load::Outcome;

/// The runs of one case, alternated with those of the cases it is compared with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(pub(crate) Vec<Outcome>);

impl Runs {
    /// The median of answers a second.
    #[must_use]
    pub(crate) fn per_second(&self) -> f64 {
        median(self.0.iter().map(Outcome::per_second))
    }

    /// The median over the runs of a quantile, in milliseconds.
    #[must_use]
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        median(self.0.iter().map(|run| run.millis(quantile)))
    }

    /// Answers that were errors, in all runs.
    #[must_use]
    pub(crate) fn bad(&self) -> u64 {
        self.0.iter().map(|run| run.bad).sum()
    }

    /// Rate and quantiles, as cells of a table.
    #[must_use]
    pub(crate) fn cells(&self) -> String {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| self.millis(quantile));
        format!("{:.0} | {p50:.2} | {p99:.2} | {p999:.2}", self.per_second())
    }
}

/// The middle of some figures.
#[must_use]
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What was asked of a ratio, and what came.
#[derive(Debug)]
pub(crate) struct Goal {
    /// In a sentence.
    pub(crate) what: String,
    /// What was asked.
    pub(crate) wanted: String,
    /// What came.
    pub(crate) found: f64,
    /// Whether that is enough.
    pub(crate) met: bool,
}

impl Goal {
    /// A figure that is to be at least this.
    #[must_use]
    pub(crate) fn at_least(what: &str, wanted: f64, found: f64) -> Self {
        Self { what: what.to_owned(), wanted: format!("≥ {wanted}"), found, met: found >= wanted }
    }

    /// A figure that is to be at most this.
    #[must_use]
    pub(crate) fn at_most(what: &str, wanted: f64, found: f64) -> Self {
        Self { what: what.to_owned(), wanted: format!("≤ {wanted}"), found, met: found <= wanted }
    }
}

/// The goals as a table.
#[must_use]
pub(crate) fn goals(goals: &[Goal]) -> String {
    let mut text = "| | wanted | found | |\n|---|---|---|---|\n".to_owned();
    for goal in goals {
        let verdict = if goal.met { "met" } else { "**falls short**" };
        let _ = writeln!(text, "| {} | {} | {:.2} | {verdict} |", goal.what, goal.wanted, goal.found);
    }
    text
}

/// What the figures were measured on.
#[must_use]
pub(crate) fn machine() -> String {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().unwrap_or_default().replace("MemTotal:", "");
    format!(
        "{} cores ({}), {}, Linux {}, {}, {}",
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        model.trim_start_matches([' ', '\t', ':']),
        memory.trim(),
        run("uname", &["-r"]),
        run("pgbench", &["--version"]),
        run("rustc", &["--version"]),
    )
}
