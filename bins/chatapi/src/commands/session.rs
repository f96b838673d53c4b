//! What a command works with: the store, and the embedded database for as long as it takes.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use chatapi_cluster::{Borrowed, Error as ClusterError};
use chatapi_domain::{KeyId, RequestId, TenantId, Timestamp};
use chatapi_storage::{AuditAction, AuditEntry, Connector, Options, Schema, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

use crate::config::{Config, Database};
use crate::embedded;
use crate::failure::{Failure, with_sources};

/// The store and what it stands on, while a command runs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) store: Store,
    pub(crate) config: Config,
    /// Where the database is, for people.
    pub(crate) address: String,
    cluster: Option<Borrowed>,
    /// Changes under way: they end, though nobody waits for them any more.
    changes: TaskTracker,
    /// What is being attempted, and ends undone with an interrupt.
    attempted: Mutex<Option<Asked>>,
}

/// What a command is about to do, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) action: AuditAction,
    pub(crate) tenant_id: Option<TenantId>,
    pub(crate) key_id: Option<KeyId>,
}

/// A tenant and its key that were made.
pub(crate) type Made = Option<(TenantId, KeyId)>;

impl Session {
    /// Does `work` on a database whose schema is the one that this program knows.
    pub(crate) async fn run(
        config: Config,
        work: impl AsyncFnOnce(&Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let checked = async |session: &Self| {
            check_schema(&session.store.schema().await?)?;
            work(session).await
        };
        Self::run_on_any(config, false, checked).await
    }

    /// Does `work` on a database whatever its schema; an embedded one is made if it is missing and
    /// `make` is set.
    pub(crate) async fn run_on_any(
        config: Config,
        make: bool,
        work: impl AsyncFnOnce(&Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // From here on a signal ends the command in order: a database that was started is stopped.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
        let session = Self::open(config, make).await?;
        let done = tokio::select! {
            done = work(&session) => Some(done),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let done = match done {
            Some(done) => done,
            None => session.interrupted().await,
        };
        let closed = session.close().await;
        done.and(closed)
    }

    async fn open(config: Config, make: bool) -> Result<Self, Failure> {
        let (connector, cluster) = match &config.database {
            Database::Url(connector) => ((**connector).clone(), None),
            Database::Embedded { .. } => {
                let borrowed = embedded::reachable(&config, async |options| {
                    if make { Borrowed::take_or_make(options).await } else { Borrowed::take(options).await }
                });
                let borrowed = borrowed.await.map_err(without_cluster)?;
                (Connector::parse(&borrowed.url())?, Some(borrowed))
            }
        };
        let address = connector.address();
        let store = Store::connect_beside(connector, Options { pool_size: 2, writers: 1 })?;
        Ok(Self { store, config, address, cluster, changes: TaskTracker::new(), attempted: Mutex::default() })
    }

    /// What was attempted ends here, and is noted.
    async fn interrupted(&self) -> Result<(), Failure> {
        let attempted = self.attempted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(asked) = attempted {
            note(&self.store, asked, None, "interrupted").await;
        }
        Err(Failure::Refused("interrupted".to_owned()))
    }

    async fn close(self) -> Result<(), Failure> {
        self.changes.close();
        self.changes.wait().await;
        self.store.close().await;
        match self.cluster {
            Some(cluster) => Ok(cluster.give_back().await?),
            None => Ok(()),
        }
    }

    /// Does `work`, which changes a tenant or its keys, and notes in the audit log what became of
    /// it. An interrupt does not stop it half way.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        asked: Asked,
        work: impl Future<Output = Result<(T, Made), Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let change = async move { noted(&store, asked, work).await };
        self.changes.spawn(change).await.map_err(|error| Failure::Refused(error.to_string()))?
    }

    /// The same for long work that is all or nothing by itself: an interrupt ends it, with nothing
    /// done.
    pub(crate) async fn attempt<T: Send + 'static>(
        &self,
        asked: Asked,
        work: impl Future<Output = Result<(T, Made), Failure>>,
    ) -> Result<T, Failure> {
        let attempted = |asked| *self.attempted.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        attempted(Some(asked.clone()));
        let done = work.await;
        attempted(None);
        // From here on it is a change like any other: its entry is written whoever waits.
        self.change(asked, std::future::ready(done)).await
    }
}

/// Does `work` and notes in the audit log what became of it.
async fn noted<T>(
    store: &Store,
    asked: Asked,
    work: impl Future<Output = Result<(T, Made), Failure>>,
) -> Result<T, Failure> {
    let done = work.await;
    let (made, outcome) = match &done {
        Ok((_, made)) => (made.clone(), "ok"),
        Err(failure) => (None, failure.code()),
    };
    note(store, asked, made, outcome).await;
    done.map(|(value, _)| value)
}

/// Adds an entry to the audit log. If that fails it is said: the work is done.
async fn note(store: &Store, asked: Asked, made: Made, outcome: &str) {
    let (at, action) = (now(), asked.action.as_str());
    let request_id = RequestId::new(at);
    let (tenant_id, key_id) = made.unzip();
    let entry = AuditEntry {
        entry_id: *request_id.as_uuid(),
        at,
        actor: "command-line".to_owned(),
        action: action.to_owned(),
        tenant_id: tenant_id.or(asked.tenant_id),
        target: key_id.or(asked.key_id).map(|id| id.to_string()),
        outcome: outcome.to_owned(),
        address: "-".to_owned(),
        request_id: request_id.to_string(),
    };
    if let Err(error) = store.audit().add(&entry).await {
        tracing::error!(error = with_sources(&error), action, outcome, "An entry of the audit log is missing");
    }
}

/// The present.
pub(crate) fn now() -> Timestamp {
    chatapi_http::now().wall
}

/// Fails unless the schema is the one that this program knows.
pub(crate) fn check_schema(schema: &Schema) -> Result<(), Failure> {
    let needed = schema.needed;
    let wrong = match schema.version {
        Some(version) if version == needed => return Ok(()),
        None => "the database has no schema yet; run: chatapi migrate".to_owned(),
        Some(version) if version < needed => {
            format!("the database's schema has version {version}, and {needed} is needed; run: chatapi migrate")
        }
        Some(version) => format!(
            "the database's schema has version {version}, newer than the {needed} of this chatapi; use a newer \
             chatapi (chatapi migrate does not go back)"
        ),
    };
    Err(Failure::Refused(wrong))
}

fn without_cluster(error: ClusterError) -> Failure {
    match error {
        ClusterError::NoCluster { .. } => {
            Failure::Refused(format!("{error}; it is made by: chatapi migrate (and by the server)"))
        }
        other => other.into(),
    }
}
