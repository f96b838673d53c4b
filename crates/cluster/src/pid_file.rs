//! The file in which a running server tells `pg_ctl` how it is.

use std::fs;
use std::path::{Path, PathBuf};

/// What `postmaster.pid` says: its first line is the process, the fifth the folder of the socket,
/// the eighth the state.
#[derive(Debug)]
pub(crate) struct PidFile {
    pub(crate) pid: u32,
    pub(crate) sockets: Option<PathBuf>,
    pub(crate) is_ready: bool,
}

impl PidFile {
    pub(crate) fn path(cluster: &Path) -> PathBuf {
        cluster.join("postmaster.pid")
    }

    /// Reads the file of a cluster; nothing if there is none, or not yet a whole line of it.
    pub(crate) fn read(cluster: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::path(cluster)).ok()?;
        let line = |number: usize| text.lines().nth(number).map(str::trim).filter(|line| !line.is_empty());
        Some(Self {
            pid: line(0)?.parse().ok()?,
            sockets: line(4).map(PathBuf::from),
            is_ready: line(7) == Some("ready"),
        })
    }

    /// Whether the process is that cluster's server. It is told by its working folder, not by its
    /// number alone, which another process may have by now.
    pub(crate) fn is_alive(&self, cluster: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd == cluster)
    }
}
