//! A throw-away PostgreSQL server.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use chatapi_cluster::{Cluster, Options};
use tempfile::TempDir;

/// A server that ends, and leaves nothing behind, when this value or its process does.
#[derive(Debug)]
pub struct Server {
    url: String,
    cluster: Cluster,
    /// Its standard input is a pipe from us: when we are gone, however we went, it cleans up.
    _watchdog: Child,
    folder: TempDir,
}

impl Server {
    /// Starts a server that does not flush to disk.
    ///
    /// # Panics
    ///
    /// If that fails: no test can run then.
    pub async fn start() -> Self {
        Self::start_with(false, Vec::new()).await
    }

    /// Starts a server with further settings, `name=value`.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub async fn start_with(durable: bool, settings: Vec<String>) -> Self {
        let folder = tempfile::Builder::new().prefix("chatapi-test-").tempdir().expect("a temporary folder");
        // As root the server runs as another user, who must get in.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("our own folder");
        let mut options = Options::new(folder.path().join("data"));
        options.durable = durable;
        options.max_connections = 300;
        options.settings = settings;
        let cluster = Cluster::start(&options).await.expect("a PostgreSQL server");
        let watchdog = watch(cluster.pid().expect("it runs"), folder.path());
        Self { url: cluster.url(), cluster, _watchdog: watchdog, folder }
    }

    /// A URL of the server's own database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server itself.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The folder that holds its data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn watch(pid: u32, folder: &Path) -> Child {
    const SCRIPT: &str = "cat > /dev/null; kill -QUIT \"$1\" 2> /dev/null; \
        while kill -0 \"$1\" 2> /dev/null; do sleep 0.05; done; rm -rf \"$2\"";
    Command::new("setsid")
        .args(["sh", "-c", SCRIPT, "watchdog", &pid.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}
