//! The data folder: its lock, the cluster in it, its socket, its log.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::account::Account;
use crate::programs::Programs;
use crate::{DATABASE, Error};

/// The longest path of a Unix socket, less the name PostgreSQL gives it (`/.s.PGSQL.5432`).
const SOCKET_DIR_MAX: usize = 107 - 15;

/// A log longer than this is set aside at the next start.
const LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Who holds a folder's lock; the lock file says so to those who come meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Until it is told to stop.
    Server,
    /// For a moment.
    Borrower,
}

impl Holder {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Borrower => "borrower",
        }
    }
}

/// A data folder that this process owns for as long as it holds the value.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) cluster: PathBuf,
    pub(crate) sockets: PathBuf,
    log: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    pub(crate) fn claim(data_dir: &Path, account: Account, holder: Holder) -> Result<Self, Error> {
        if !Self::has_cluster(data_dir)? {
            Self::check_reachable(data_dir, account)?;
        }
        let existed = data_dir.exists();
        fs::create_dir_all(data_dir).map_err(Error::io(format!("cannot make {}", data_dir.display())))?;
        let root = data_dir.canonicalize().map_err(Error::io(format!("cannot open {}", data_dir.display())))?;
        if !existed {
            let mode = Permissions::from_mode(0o700);
            fs::set_permissions(&root, mode).map_err(Error::io(format!("cannot protect {}", root.display())))?;
        }
        let lock = lock(&root, holder)?;
        // Only now: the cluster of one who holds the lock may be run by another account.
        Self::check_reachable(&root, account)?;
        let cluster = root.join("postgres");
        check_owner(&cluster, account)?;
        account.own(&root)?;
        let sockets = socket_folder(&root, account)?;
        Ok(Self { cluster, sockets, log: root.join("postgres.log"), _lock: lock })
    }

    /// Fails if the account cannot get into the folder.
    pub(crate) fn check_reachable(data_dir: &Path, account: Account) -> Result<(), Error> {
        let folder = std::path::absolute(data_dir).map_err(Error::io("cannot tell the present folder"))?;
        account.closed_ancestor(&folder).map_or(Ok(()), |closed| Err(Error::Unreachable { folder, closed }))
    }

    /// Whether there is a cluster in the folder.
    pub(crate) fn has_cluster(data_dir: &Path) -> Result<bool, Error> {
        let file = data_dir.join("postgres/PG_VERSION");
        file.try_exists().map_err(Error::io(format!("cannot look at {}", file.display())))
    }

    /// The major version of the cluster in the folder, if there is one.
    pub(crate) fn major_version(data_dir: &Path) -> Option<u32> {
        fs::read_to_string(data_dir.join("postgres/PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Makes the cluster, unless it is there. One that was cut short is made anew: the cluster
    /// gets its name only when it is complete.
    pub(crate) async fn make_cluster(&self, programs: &Programs, account: Account) -> Result<(), Error> {
        if self.cluster.join("PG_VERSION").exists() {
            return Ok(());
        }
        let fresh = self.cluster.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(Error::io(format!("cannot remove {}", fresh.display())))?;
        }
        tracing::info!(folder = %self.cluster.display(), "Making a PostgreSQL cluster");
        let mut initdb = account.command(&programs.path("initdb"));
        initdb.arg("-D").arg(&fresh).args(["-U", DATABASE, "-E", "UTF8", "--locale=C", "--data-checksums"]);
        initdb.args(["--auth-local=trust", "--auth-host=reject"]);
        run("initdb", initdb, "").await?;
        let mut single = account.command(&programs.path("postgres"));
        single.arg("--single").arg("-D").arg(&fresh).arg("postgres");
        run("postgres --single", single, &format!("create database {DATABASE}\n")).await?;
        fs::rename(&fresh, &self.cluster).map_err(Error::io(format!("cannot make {}", self.cluster.display())))
    }

    /// Where PostgreSQL writes its log.
    pub(crate) fn open_log(&self, account: Account) -> Result<File, Error> {
        if fs::metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
            let aside = self.log.with_extension("log.1");
            fs::rename(&self.log, &aside).map_err(Error::io("cannot set the old log aside"))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(Error::io(format!("cannot open {}", self.log.display())))?;
        account.own(&self.log)?;
        Ok(log)
    }

    /// The last lines of the log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<_> = text.trim_end().lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

fn lock(root: &Path, holder: Holder) -> Result<File, Error> {
    let (path, folder) = (root.join("chatapi.lock"), root.to_path_buf());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let mut file = file.map_err(Error::io(format!("cannot open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| file.write_all(holder.as_str().as_bytes()));
            written.map_err(Error::io(format!("cannot write to {}", path.display())))?;
            Ok(file)
        }
        // Of one who has just taken it the file may still name the last holder; who waits looks again.
        Err(TryLockError::WouldBlock) => match fs::read_to_string(&path) {
            Ok(text) if text == Holder::Borrower.as_str() => Err(Error::Borrowed { folder }),
            _ => Err(Error::InUse { folder }),
        },
        Err(TryLockError::Error(error)) => Err(Error::io(format!("cannot lock {}", path.display()))(error)),
    }
}

/// Fails if the cluster is another account's: `PostgreSQL` would refuse to start on it, and to
/// give the folder to this account would keep its owner out.
fn check_owner(cluster: &Path, account: Account) -> Result<(), Error> {
    let Ok(meta) = fs::metadata(cluster) else { return Ok(()) };
    let (owner, folder) = (meta.uid(), cluster.to_path_buf());
    if owner == account.uid() { Ok(()) } else { Err(Error::NotOurs { folder, owner }) }
}

/// A folder for the socket that only its owner may enter: in the data folder, or, where that
/// path is too long for a socket or not plain, under `/tmp`.
fn socket_folder(root: &Path, account: Account) -> Result<PathBuf, Error> {
    let inside = root.join("run");
    let text = inside.as_os_str().to_string_lossy();
    let plain = text.len() <= SOCKET_DIR_MAX && !text.contains([',', '"', '\'', '\\', ' ']);
    let folder = if plain {
        inside
    } else {
        let mut hasher = DefaultHasher::new();
        root.hash(&mut hasher);
        PathBuf::from(format!("/tmp/chatapi-{:016x}", hasher.finish()))
    };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("cannot make {}", folder.display()))(error));
        }
        Ok(()) => account.own(&folder)?,
        Err(_) => {}
    }
    // Under /tmp anybody might have made it first.
    let meta = fs::symlink_metadata(&folder).map_err(Error::io(format!("cannot open {}", folder.display())))?;
    let owner = fs::metadata(root).map_err(Error::io("cannot read the data folder"))?.uid();
    if !meta.is_dir() || meta.uid() != owner || meta.mode() & 0o077 != 0 {
        let what = format!("{} is not a private folder of ours; remove it", folder.display());
        return Err(Error::Io { action: what, source: std::io::ErrorKind::PermissionDenied.into() });
    }
    Ok(folder)
}

/// Runs a program to its end and fails with what it said.
pub(crate) async fn run(name: &'static str, mut command: tokio::process::Command, input: &str) -> Result<(), Error> {
    use tokio::io::AsyncWriteExt;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Error::io(format!("cannot start {name}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input says why itself.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(Error::io(format!("cannot wait for {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
    Err(Error::Program { program: name, output: said })
}
