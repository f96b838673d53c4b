//! Where the PostgreSQL programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The folder Debian and Ubuntu keep one folder a major version in.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A folder that holds `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the programs: in `bin_dir` if given, else on the `PATH`, else the newest of
    /// Debian's folders. A cluster that exists needs its own major version.
    ///
    /// # Errors
    ///
    /// [`Error::ProgramsMissing`] if they are nowhere.
    pub fn find(bin_dir: Option<&Path>, major: Option<u32>) -> Result<Self, Error> {
        let candidates = match bin_dir {
            Some(folder) => vec![folder.to_path_buf()],
            None => searched(),
        };
        let complete: Vec<_> = candidates.into_iter().filter(|folder| is_complete(folder)).collect();
        let fitting = complete.iter().find(|folder| major.is_none() || version(folder) == major);
        match fitting {
            Some(folder) => Ok(Self { folder: folder.clone() }),
            None => Err(Error::ProgramsMissing { found: missing(bin_dir, major, &complete) }),
        }
    }

    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

fn missing(bin_dir: Option<&Path>, major: Option<u32>, complete: &[PathBuf]) -> String {
    let place = bin_dir.map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
    match major {
        Some(major) if !complete.is_empty() => format!("{place} of version {major}, which the cluster needs"),
        _ => place,
    }
}

fn searched() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    folders.extend(versions.into_iter().map(|(_, folder)| folder));
    folders
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl"].iter().all(|program| folder.join(program).is_file())
}

/// The major version that `postgres --version` of this folder names.
fn version(folder: &Path) -> Option<u32> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
