//! The one connection of a node on which it listens, tells, and shows that it is alive.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::notice::Notice;
use super::{Feed, NOTIFY, Position, Signal};
use crate::nodes::{self, BEAT};
use crate::{Connector, Error, Result};

/// What gathers within this time is told at once.
const GATHER: Duration = Duration::from_millis(3);

/// After a break the next try follows this much later.
const PAUSE: Duration = Duration::from_millis(250);

/// A database that does not answer within this time is given up, and the connection made anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the connection until `stop`, whatever happens to it.
pub(crate) async fn run(feed: Feed, connector: Connector, stop: CancellationToken) {
    while let Some(ended) = stop.run_until_cancelled(follow(&feed, &connector)).await {
        if feed.shared.listening.swap(false, Relaxed) {
            tracing::warn!(error = ?ended.err(), "The change feed is cut");
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
    feed.shared.listening.store(false, Relaxed);
    let leaving = nodes::leave(&feed.db, feed.node_id());
    let _ = timeout(Duration::from_secs(1), leaving).await;
}

/// Listens and tells until the connection breaks.
async fn follow(feed: &Feed, connector: &Connector) -> Result<()> {
    let (config, tls) = connector.for_feed();
    let (client, connection) = timeout(PATIENCE, config.connect(tls)).await.map_err(|_| late())??;
    #[expect(clippy::disallowed_methods, reason = "owned by the handle, ends with this connection")]
    let mut driver = AbortOnDropHandle::new(tokio::spawn(hear(feed.clone(), connection)));
    client.batch_execute("listen chatapi").await?;
    let notify = client.prepare(NOTIFY).await?;
    nodes::beat(&feed.db, feed.node_id()).await?;
    let hello = Notice::Hello { from: feed.node_id() }.to_text()?;
    client.execute(&notify, &[&vec![hello]]).await?;
    feed.shared.listening.store(true, Relaxed);
    feed.publish(Signal::Missed);

    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut driver => return Err(Error::unavailable("the connection of the change feed broke")),
            () = feed.shared.wake.notified() => {
                sleep(GATHER).await;
                tell(feed, &client, &notify).await?;
            }
            _ = beats.tick() => timeout(PATIENCE, beat(feed)).await.map_err(|_| late())??,
        }
    }
}

fn late() -> Error {
    Error::unavailable("the database does not answer the change feed")
}

/// Tells the other nodes what is pending. If that fails it is lost; they find out by comparing.
async fn tell(feed: &Feed, client: &Client, notify: &tokio_postgres::Statement) -> Result<()> {
    let pending = std::mem::take(&mut *feed.pending());
    let notices = pending.into_notices(feed.node_id())?;
    feed.shared.notices.fetch_add(notices.len() as u64, Relaxed);
    timeout(PATIENCE, client.execute(notify, &[&notices])).await.map_err(|_| late())??;
    Ok(())
}

/// Shows that this node is alive, counts the others, and ends those that are dead.
async fn beat(feed: &Feed) -> Result<()> {
    let state = nodes::beat(&feed.db, feed.node_id()).await?;
    feed.shared.others.store(state.others, Relaxed);
    if state.joined {
        // Others took us for dead, and our users for gone.
        feed.publish(Signal::Missed);
    }
    for (tenant, fact) in nodes::bury(&feed.db, feed.node_id()).await? {
        feed.tell(tenant, fact);
    }
    Ok(())
}

/// Passes on what other nodes tell, until the connection ends.
async fn hear<S, T>(feed: Feed, mut connection: Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message {
            hear_one(&feed, notification.payload());
        }
    }
}

fn hear_one(feed: &Feed, text: &str) {
    let own = feed.node_id();
    match serde_json::from_str(text) {
        Ok(Notice::Hello { from }) if from != own => {
            // Counted exactly with the next beat; one is enough to begin telling.
            feed.shared.others.fetch_max(1, Relaxed);
        }
        Ok(Notice::Positions { from, rooms }) if from != own => {
            for room in rooms {
                feed.publish(Signal::Position(Position::of(room)));
            }
        }
        Ok(Notice::Fact { from, tenant_id, fact }) if from != Some(own) => {
            feed.publish(Signal::Fact { tenant_id, fact });
        }
        Ok(_) => {}
        // A newer version may tell what this one does not know.
        Err(error) => tracing::debug!(%error, "A notice was not understood"),
    }
}
