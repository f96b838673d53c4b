//! A cluster for a moment: the one that another process runs, else one that is started for it.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::folder::{Folder, Holder};
use crate::pid_file::PidFile;
use crate::postmaster::url;
use crate::{Cluster, Error, Options};

/// How long one waits for another who starts the cluster, stops it, or has it for a moment too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often one looks meanwhile.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// A cluster that is needed for a moment.
///
/// Those who start one take turns, and a [`Cluster::start`] that comes meanwhile waits for them.
#[derive(Debug)]
pub enum Borrowed {
    /// Nobody ran it: it was started, and is to be stopped.
    Started(Box<Cluster>),
    /// Another process runs it, and goes on doing so.
    Running {
        /// Connects to the cluster's own database.
        url: String,
    },
}

impl Borrowed {
    /// Connects to the cluster that another process runs in this folder, or else starts it.
    ///
    /// # Errors
    ///
    /// [`Error::NoCluster`] if the folder has none, and [`Error`] as with [`Cluster::start`].
    pub async fn take(options: &Options) -> Result<Self, Error> {
        if Folder::has_cluster(&options.data_dir)? {
            return Self::take_or_make(options).await;
        }
        // It may be where this account can reach it.
        Folder::check_reachable(&options.data_dir, Account::current()?)?;
        Err(Error::NoCluster { folder: options.data_dir.clone() })
    }

    /// As [`Borrowed::take`], and makes the cluster if the folder has none.
    ///
    /// # Errors
    ///
    /// [`Error`] as with [`Cluster::start`].
    pub async fn take_or_make(options: &Options) -> Result<Self, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match Cluster::start_as(options, Holder::Borrower).await {
                Ok(cluster) => return Ok(Self::Started(Box::new(cluster))),
                Err(refused @ Error::InUse { .. }) => match running(&options.data_dir) {
                    Some(url) => return Ok(Self::Running { url }),
                    None => refused,
                },
                Err(refused @ Error::Borrowed { .. }) => refused,
                Err(error) => return Err(error),
            };
            if Instant::now() > deadline {
                return Err(refused);
            }
            sleep(PAUSE).await;
        }
    }

    /// A URL that connects to the cluster's own database.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Started(cluster) => cluster.url(),
            Self::Running { url } => url.clone(),
        }
    }

    /// Stops the cluster if it was started for this.
    ///
    /// # Errors
    ///
    /// [`Error`] if it does not stop within a minute.
    pub async fn give_back(self) -> Result<(), Error> {
        match self {
            Self::Started(cluster) => cluster.stop().await,
            Self::Running { .. } => Ok(()),
        }
    }
}

/// The URL of the cluster that another process runs in this folder, once it accepts connections.
fn running(data_dir: &Path) -> Option<String> {
    let cluster = data_dir.canonicalize().ok()?.join("postgres");
    let file = PidFile::read(&cluster)?;
    let sockets = file.sockets.as_deref().filter(|_| file.is_ready && file.is_alive(&cluster))?;
    Some(url(sockets))
}
