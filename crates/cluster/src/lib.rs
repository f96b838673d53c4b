//! A PostgreSQL of our own: finds the installed programs, makes a cluster, keeps it running.
//!
//! Start at [`Cluster::start`]. The cluster listens on a Unix socket only, in a folder that only
//! its owner may enter, and keeps full durability unless a test asks otherwise. Nothing here
//! knows what the database is for.
//!
//! One process owns a data folder at a time, by a lock on a file in it; another can connect to the
//! cluster meanwhile ([`Borrowed`]). A cluster that a killed
//! owner left behind, running or crashed, is stopped or recovered by the next one.

mod account;
mod borrowed;
mod folder;
mod pid_file;
mod postmaster;
mod programs;

use std::path::{Path, PathBuf};

pub use borrowed::Borrowed;
pub use postmaster::Cluster;
pub use programs::Programs;

/// The database, and the superuser, that a new cluster has.
pub const DATABASE: &str = "chatapi";

/// A folder that the user `postgres` can reach, for one that it cannot: the same name for the same
/// folder, under `/var/lib/chatapi`.
#[must_use]
pub fn reachable_instead_of(folder: &Path) -> PathBuf {
    let name = folder.to_string_lossy().trim_matches('/').replace('/', "-");
    Path::new("/var/lib/chatapi").join(name)
}

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that holds everything: the cluster, its socket, its log, the lock.
    pub data_dir: PathBuf,
    /// Where the PostgreSQL programs are; searched for if absent.
    pub bin_dir: Option<PathBuf>,
    /// Connections that the cluster is to have room for.
    pub max_connections: u32,
    /// Whether an acknowledged commit survives a crash of the machine. Only throw-away clusters
    /// of tests do without.
    pub durable: bool,
    /// Further settings, as `name=value`.
    pub settings: Vec<String>,
}

impl Options {
    /// A durable cluster in this folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), bin_dir: None, max_connections: 100, durable: true, settings: Vec::new() }
    }
}

/// Why there is no cluster. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No PostgreSQL server is installed where we look.
    #[error(
        "no PostgreSQL server programs (initdb, postgres, pg_ctl){found}; install them (Debian, Ubuntu: apt-get install postgresql), or set PG_BIN_DIR to their folder, or DATABASE_URL to a running server"
    )]
    ProgramsMissing {
        /// What was found instead, if anything.
        found: String,
    },
    /// As root there must be a user to drop to.
    #[error(
        "PostgreSQL refuses to run as root and there is no user 'postgres' to run it as; create one (adduser --system --group postgres), or start as another user, or set DATABASE_URL"
    )]
    NoAccount,
    /// The user that runs PostgreSQL cannot get into the folder.
    #[error(
        "the user 'postgres' cannot reach {folder} ({closed} is closed to it); choose a DATA_DIR it can reach, such as /var/lib/chatapi"
    )]
    Unreachable {
        /// The data folder.
        folder: PathBuf,
        /// The folder on the way that is closed.
        closed: PathBuf,
    },
    /// Another process owns the folder.
    #[error("{folder} is in use by another chatapi; stop that one, or choose another DATA_DIR")]
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// A process that needs the cluster for a moment owns the folder.
    #[error("{folder} is in use by another command of chatapi; try again when that has ended")]
    Borrowed {
        /// The data folder.
        folder: PathBuf,
    },
    /// There is no cluster in the folder, and none was to be made.
    #[error("there is no database in {folder} yet")]
    NoCluster {
        /// The data folder.
        folder: PathBuf,
    },
    /// The cluster is another user's.
    #[error("the database in {folder} belongs to the user with the number {owner}; run chatapi as that user")]
    NotOurs {
        /// The cluster.
        folder: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// A program ended with an error.
    #[error("{program} failed: {output}")]
    Program {
        /// Which one.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// A file or process could not be handled.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action: format!("{action}: {source}"), source }
    }
}
