//! The running server: started, watched, started again when it dies, stopped.

use std::fs;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::borrowed;
use crate::folder::{Folder, Holder, run};
use crate::pid_file::PidFile;
use crate::programs::Programs;
use crate::{DATABASE, Error, Options};

/// How long a start is tried again while the processes of a killed server are still leaving.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A running PostgreSQL that this process owns.
///
/// Dropping it leaves the server running; [`Cluster::stop`] stops it.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    programs: Programs,
    account: Account,
    arguments: Vec<String>,
    child: Child,
}

impl Cluster {
    /// Makes the cluster if the folder has none, takes over what an earlier owner left, and
    /// returns once the server accepts connections. Waits for one who has [`crate::Borrowed`] it.
    ///
    /// # Errors
    ///
    /// [`Error`]; each says what to do.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let deadline = Instant::now() + borrowed::PATIENCE;
        loop {
            match Self::start_as(options, Holder::Server).await {
                Err(Error::Borrowed { .. }) if Instant::now() < deadline => sleep(borrowed::PAUSE).await,
                started => return started,
            }
        }
    }

    pub(crate) async fn start_as(options: &Options, holder: Holder) -> Result<Self, Error> {
        let programs = Programs::find(options.bin_dir.as_deref(), Folder::major_version(&options.data_dir))?;
        let account = Account::current()?;
        let folder = Folder::claim(&options.data_dir, account, holder)?;
        folder.make_cluster(&programs, account).await?;
        stop_leftover(&folder, &programs, account).await?;
        let arguments = arguments(options, &folder.sockets);
        let child = launch(&folder, &programs, account, &arguments).await?;
        Ok(Self { folder, programs, account, arguments, child })
    }

    /// The folder of the Unix socket: the `host` of a connection.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.folder.sockets
    }

    /// A URL that connects to the cluster's own database.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.folder.sockets)
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the server has ended, however it did.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be waited for.
    pub async fn ended(&mut self) -> Result<ExitStatus, Error> {
        self.child.wait().await.map_err(Error::io("cannot wait for postgres"))
    }

    /// Starts the server again after it has [ended](Cluster::ended).
    ///
    /// # Errors
    ///
    /// [`Error`] if it does not come up; may be called again.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.child = launch(&self.folder, &self.programs, self.account, &self.arguments).await?;
        Ok(())
    }

    /// Stops the server: sessions are ended, everything is on disk.
    ///
    /// # Errors
    ///
    /// [`Error`] if it does not stop within a minute.
    pub async fn stop(mut self) -> Result<(), Error> {
        if self.child.try_wait().map_err(Error::io("cannot wait for postgres"))?.is_some() {
            return Ok(());
        }
        stop(&self.folder, &self.programs, self.account, "fast").await?;
        self.ended().await.map(|_| ())
    }
}

/// A URL that connects by the socket in this folder.
pub(crate) fn url(sockets: &Path) -> String {
    let encode = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    let host: String = sockets.as_os_str().as_encoded_bytes().iter().map(encode).collect();
    format!("postgres://{DATABASE}@{host}/{DATABASE}?sslmode=disable")
}

fn arguments(options: &Options, sockets: &Path) -> Vec<String> {
    let switch = if options.durable { "on" } else { "off" };
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", sockets.display()),
        "unix_socket_permissions=0700".to_owned(),
        format!("fsync={switch}"),
        format!("synchronous_commit={switch}"),
        format!("full_page_writes={switch}"),
        format!("max_connections={}", options.max_connections),
        "max_wal_size=2GB".to_owned(),
        // Segments of the log that are kept for reuse: to make a new one all wait some 7 ms
        // (docs/operations.md, Sizing).
        "min_wal_size=256MB".to_owned(),
        "shared_buffers=256MB".to_owned(),
        "log_min_messages=warning".to_owned(),
        "timezone=UTC".to_owned(),
    ];
    settings.extend(options.settings.iter().cloned());
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

/// Starts the server and waits until it accepts connections. Tried again for a while: after a
/// kill the old server's processes hold its memory until they have noticed.
async fn launch(folder: &Folder, programs: &Programs, account: Account, arguments: &[String]) -> Result<Child, Error> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let log = folder.open_log(account)?;
        let copy = log.try_clone().map_err(Error::io("cannot open the log twice"))?;
        let mut command = account.command(&programs.path("postgres"));
        command.arg("-D").arg(&folder.cluster).args(arguments);
        // A group of its own: an interrupt at the terminal is for us, and we stop it in order.
        command.stdin(Stdio::null()).stdout(copy).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(Error::io("cannot start postgres"))?;
        if accepts_connections(folder, &mut child).await? {
            return Ok(child);
        }
        if Instant::now() > deadline {
            return Err(Error::Program { program: "postgres", output: folder.log_tail() });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the server is ready; false if it ended instead. Recovery may take as long as it
/// takes.
async fn accepts_connections(folder: &Folder, child: &mut Child) -> Result<bool, Error> {
    let pid = child.id();
    loop {
        if child.try_wait().map_err(Error::io("cannot wait for postgres"))?.is_some() {
            return Ok(false);
        }
        if PidFile::read(&folder.cluster).is_some_and(|file| Some(file.pid) == pid && file.is_ready) {
            return Ok(true);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Stops a server that a killed owner left running.
async fn stop_leftover(folder: &Folder, programs: &Programs, account: Account) -> Result<(), Error> {
    let Some(file) = PidFile::read(&folder.cluster) else { return Ok(()) };
    let pid = file.pid;
    if !file.is_alive(&folder.cluster) {
        // PostgreSQL would mistake a stranger with this number for itself and refuse to start.
        if Path::new(&format!("/proc/{pid}")).exists() {
            fs::remove_file(PidFile::path(&folder.cluster)).map_err(Error::io("cannot remove postmaster.pid"))?;
        }
        return Ok(());
    }
    tracing::info!(pid, "Taking over a PostgreSQL that an earlier run left");
    match stop(folder, programs, account, "fast").await {
        Ok(()) => Ok(()),
        Err(_) => stop(folder, programs, account, "immediate").await,
    }
}

async fn stop(folder: &Folder, programs: &Programs, account: Account, mode: &str) -> Result<(), Error> {
    let mut pg_ctl = account.command(&programs.path("pg_ctl"));
    pg_ctl.arg("stop").arg("-D").arg(&folder.cluster).args(["-m", mode, "-w", "-t", "60"]);
    run("pg_ctl stop", pg_ctl, "").await
}
