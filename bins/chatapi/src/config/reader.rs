//! Variables, and what is wrong with them.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

fn from_file(path: &Path) -> Result<HashMap<String, String>, String> {
    let wrong = |error: &dyn Display| format!("--env-file {}: {error}", path.display());
    let entries = dotenvy::from_path_iter(path).map_err(|error| wrong(&error))?;
    // The error of a line would show the line, secret and all.
    entries.collect::<Result<_, _>>().map_err(|_| wrong(&"a line is not NAME=value"))
}

/// A variable that is set.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    /// What it is set to; absent if that is a secret.
    pub(crate) value: Option<String>,
}

/// Reads variables and gathers what is wrong with them.
pub(super) struct Reader {
    variables: HashMap<String, String>,
    /// Those that were read and are set, by name.
    set: BTreeMap<&'static str, Variable>,
    pub(super) errors: Vec<String>,
}

impl Reader {
    pub(super) const fn new(variables: HashMap<String, String>) -> Self {
        Self { variables, set: BTreeMap::new(), errors: Vec::new() }
    }

    /// The variables of the environment, and those of the file that are not there.
    pub(super) fn open(env_file: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut variables = match env_file.map(from_file).transpose() {
            Ok(variables) => variables.unwrap_or_default(),
            Err(error) => return Err(vec![error]),
        };
        variables.extend(env::vars_os().filter_map(|(name, value)| {
            // A value that is no text is caught as a wrong value where it matters.
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }));
        Ok(Self::new(variables))
    }

    /// Those that were read and are set.
    pub(super) fn variables(&self) -> Vec<Variable> {
        self.set.values().cloned().collect()
    }

    /// The value, if it is set and not empty; nobody else is shown it.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<String> {
        let value = self.variables.get(name).filter(|value| !value.is_empty())?;
        self.set.insert(name, Variable { name, value: None });
        Some(value.clone())
    }

    /// The value, if it is set and not empty.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.secret(name)?;
        self.set.insert(name, Variable { name, value: Some(value.clone()) });
        Some(value)
    }

    pub(super) fn wrong(&mut self, name: &str, expected: impl Display) {
        self.errors.push(format!("{name}: {expected}"));
    }

    pub(super) fn number<N>(&mut self, name: &'static str, default: N, range: RangeInclusive<N>) -> N
    where
        N: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = self.text(name) else { return default };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.wrong(name, format_args!("expected a whole number from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => {
                self.wrong(name, "expected true or false");
                false
            }
        }
    }

    pub(super) fn list<T>(&mut self, name: &'static str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let text = self.text(name).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let parsed: Option<Vec<T>> = items.map(parse).collect();
        parsed.unwrap_or_else(|| {
            self.wrong(name, format_args!("expected a comma list of {expected}"));
            Vec::new()
        })
    }
}
