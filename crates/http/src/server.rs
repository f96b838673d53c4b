//! Accepts connections and serves them until it is told to stop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::dispatch;
use crate::patient::Patient;

/// Connections at once; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 65_536;

/// Within this time a request's head must be complete, the first byte included; so long a
/// connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_mins(1);

/// The most bytes of a request's head.
const MAX_HEAD: usize = 64 * 1024;

/// Serves `api` on `listener` until its `stop`; then no connection is accepted, and requests in
/// flight and sockets have `drain` to finish. What has not finished by then is dropped.
pub async fn serve(api: Arc<Api>, listener: TcpListener, drain: Duration) {
    let stop = api.stop.clone();
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let hard_stop = CancellationToken::new();
    while let Some(permit) = stop.run_until_cancelled(permits.clone().acquire_owned()).await {
        let Some(accepted) = stop.run_until_cancelled(accept(&listener)).await else { break };
        let serving = connection(api.clone(), accepted, stop.clone());
        let hard_stop = hard_stop.clone();
        connections.spawn(async move {
            hard_stop.run_until_cancelled(serving).await;
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    // Requests whose client has hung up are on tasks of their own.
    api.tasks.close();
    let all = async {
        connections.wait().await;
        // Only now: a connection may have become a WebSocket at the last moment.
        api.sockets.close();
        api.sockets.wait().await;
        api.tasks.wait().await;
    };
    if timeout(drain, all).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            requests = api.tasks.len(),
            sockets = api.sockets.len(),
            "Not all requests finished in time"
        );
        hard_stop.cancel();
        connections.wait().await;
    }
}

/// The next connection. An error here is of the system (too many open files, say) and passes.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "Accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(api: Arc<Api>, stream: TcpStream, stop: CancellationToken) {
    // Answers are small and complete: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let Ok(peer) = stream.peer_addr() else { return };
    api.metrics.connections.inc();
    let service = service_fn(|request| {
        // Boxed: hyper keeps room for this future as long as the connection is open.
        let answer = Box::pin(dispatch::answer(api.clone(), peer.ip(), request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Patient::new(stream)), service)
        .with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            // The request in flight is answered, an idle connection closed.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "A connection broke");
    }
    api.metrics.connections.dec();
}
