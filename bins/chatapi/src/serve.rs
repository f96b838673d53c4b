//! Assembles the server, and takes it apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chatapi_auth::Verifier;
use chatapi_cluster::Cluster;
use chatapi_delivery::Dispatcher;
use chatapi_http::{Api, Options as ApiOptions};
use chatapi_realtime::Hub;
use chatapi_storage::{Connector, Error as StoreError, Options as StoreOptions, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Database, Master};
use crate::embedded;
use crate::failure::{Failure, with_sources};

/// Serves until a signal comes.
pub(crate) async fn run(config: Config, master: Master) -> Result<(), Failure> {
    if master.is_short {
        tracing::warn!("MASTER_API_KEY has fewer than 32 characters; make one with: openssl rand -hex 32");
    }
    let (stop, hub_stop) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let postmaster = Postmaster::default();
    watch_signals(&tasks, stop.clone(), postmaster.clone())?;
    let listener = listen(&config.listen).await?;
    let (connector, cluster) = database(&config, &tasks, &stop, postmaster).await?;

    let options = StoreOptions { pool_size: config.pool_size, writers: config.writers };
    let store = Store::connect(connector, options)?;
    let verifier = Verifier::new(store.clone(), master.keys, config.defaults, tasks.clone());
    tasks
        .spawn(stop.clone().run_until_cancelled_owned(verifier.clone().follow(store.feed().told(), chatapi_http::now)));
    tasks.spawn(stop.clone().run_until_cancelled_owned(verifier.clone().keep_noting()));
    let hub_tasks = TaskTracker::new();
    let hub = Hub::start(store.clone(), &hub_tasks, &hub_stop);
    let delivery_tasks = TaskTracker::new();
    let clock = || chatapi_http::now().wall;
    let dispatcher = Dispatcher::start(store.clone(), config.webhooks, clock, &delivery_tasks, &stop);
    let api_options = ApiOptions {
        trusted_proxies: config.trusted_proxies,
        metrics_token: config.metrics_token,
        webhook_allow_private: config.webhooks.allow_private,
    };
    let api = Arc::new(Api::new(store.clone(), verifier, hub, dispatcher, api_options, stop.clone()));

    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "Listening");
    }
    let serving = chatapi_http::serve(api.clone(), listener, config.drain);
    let preparing = async {
        let prepared = stop.run_until_cancelled(prepare(&store)).await.unwrap_or(Ok(()));
        match &prepared {
            Ok(()) if !stop.is_cancelled() => {
                api.set_ready(true);
                tracing::info!("Ready");
                stop.cancelled().await;
                api.set_ready(false);
                tracing::info!("Stopping");
            }
            _ => stop.cancel(),
        }
        prepared
    };
    // What is not answered by then is sent again by another node, or after the next start.
    let delivering = async {
        stop.cancelled().await;
        delivery_tasks.close();
        let _ = timeout(config.drain, delivery_tasks.wait()).await;
    };
    let ((), prepared, ()) = tokio::join!(serving, preparing, delivering);

    // Events go out until the last connection is closed.
    hub_stop.cancel();
    hub_tasks.close();
    let _ = timeout(Duration::from_secs(1), hub_tasks.wait()).await;
    // The writers finish what they have accepted; a database that is away must not keep us.
    let _ = timeout(config.drain.max(Duration::from_secs(1)), store.close()).await;
    if let Some(cluster) = cluster
        && let Ok(Some(cluster)) = cluster.await
    {
        cluster.stop().await?;
    }
    prepared?;
    tracing::info!("Stopped");
    Ok(())
}

/// Brings the schema up to date and waits until changes are told; waits for a database that is away.
async fn prepare(store: &Store) -> Result<(), StoreError> {
    loop {
        match store.migrate().await {
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(error = with_sources(&error), "Waiting for the database");
                sleep(Duration::from_secs(1)).await;
            }
            result => {
                result?;
                break;
            }
        }
    }
    // What others change must reach us from the first request on.
    while !store.feed().is_listening() {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, Failure> {
    let failed = |source| Failure::Listen { address: address.to_owned(), source };
    let Some(port) = address.strip_prefix(':') else {
        return TcpListener::bind(address).await.map_err(failed);
    };
    // Both families at once; where there is no IPv6, the other alone.
    let port: u16 = port.parse().map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
    match TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from(([0_u8; 4], port))).await.map_err(failed)
        }
        bound => bound.map_err(failed),
    }
}

type Supervised = JoinHandle<Option<Cluster>>;

/// The database to connect to, started if it is our own.
async fn database(
    config: &Config,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    postmaster: Postmaster,
) -> Result<(Connector, Option<Supervised>), Failure> {
    if let Database::Url(connector) = &config.database {
        return Ok(((**connector).clone(), None));
    }
    let cluster = embedded::reachable(config, Cluster::start).await?;
    let connector = Connector::parse(&cluster.url())?;
    Ok((connector, Some(tasks.spawn(supervise(cluster, stop.clone(), postmaster)))))
}

/// Starts the database again whenever it ends, until `stop`.
async fn supervise(mut cluster: Cluster, stop: CancellationToken, postmaster: Postmaster) -> Option<Cluster> {
    loop {
        postmaster.0.store(cluster.pid().unwrap_or(0), Ordering::Relaxed);
        let ended = stop.run_until_cancelled(cluster.ended()).await;
        let Some(ended) = ended else { return Some(cluster) };
        tracing::error!(status = ended.ok().map(|status| status.to_string()), "PostgreSQL ended; starting it again");
        loop {
            // Not cut short: a server half started would be left behind.
            match cluster.restart().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, "PostgreSQL does not start; trying again");
                    stop.run_until_cancelled(sleep(Duration::from_secs(1))).await?;
                }
            }
        }
        tracing::info!("PostgreSQL runs again");
    }
}

/// The process of the embedded database, 0 if there is none: for an end that waits for nothing.
#[derive(Debug, Clone, Default)]
struct Postmaster(Arc<AtomicU32>);

impl Postmaster {
    /// Tells it to end its sessions and stop.
    fn stop(&self) {
        let pid = self.0.load(Ordering::Relaxed);
        if pid != 0 {
            let _ = std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status();
        }
    }
}

/// The first SIGTERM or SIGINT stops the server in order, a second one at once.
fn watch_signals(tasks: &TaskTracker, stop: CancellationToken, postmaster: Postmaster) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    tasks.spawn(async move {
        for order in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if order {
                postmaster.stop();
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}
