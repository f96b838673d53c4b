//! One writer: its connection, and what happens when a batch fails.

use std::sync::Arc;
use std::time::Duration;

use chatapi_domain::{RoomId, TenantId};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_util::task::AbortOnDropHandle;

use super::batch::Statements;
use super::queue::Queue;
use super::{Job, Outcome};
use crate::feed::Feed;
use crate::{Connector, Error, Result};

/// Longer than any statement may run (`statement_timeout`): then the connection is given up.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Connection {
    client: Client,
    statements: Statements,
    _driver: AbortOnDropHandle<()>,
}

/// Writes what the queue brings until it is closed and empty.
pub(super) async fn run(queue: Arc<Queue>, connector: Connector, feed: Feed) {
    let mut connection = None;
    while let Some(mut batch) = queue.next().await {
        // Rooms together and in order; the messages of one room stay in the order they came.
        batch.sort_by_key(room);
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(&connector).await,
        };
        match open {
            Ok(open) => {
                open.write(&queue, &feed, batch).await;
                connection = (!open.client.is_closed()).then_some(open);
            }
            Err(error) => {
                tracing::error!(%error, source = ?std::error::Error::source(&error), "The message writer has no connection");
                fail(batch);
            }
        }
    }
}

fn fail(batch: Vec<Job>) {
    for job in batch {
        job.finish(Err(Error::unavailable("the message writer has no connection")));
    }
}

impl Connection {
    async fn open(connector: &Connector) -> Result<Self> {
        let (config, tls) = connector.for_writer();
        let connect = async {
            let (client, connection) = config.connect(tls).await?;
            let driver = async move {
                if let Err(error) = connection.await {
                    tracing::warn!(%error, "A message writer's connection broke");
                }
            };
            #[expect(clippy::disallowed_methods, reason = "owned by the handle, ends with the connection")]
            let driver = AbortOnDropHandle::new(tokio::spawn(driver));
            let statements = Statements::prepare(&client).await?;
            Ok(Self { client, statements, _driver: driver })
        };
        timeout(Duration::from_secs(5), connect).await.unwrap_or(Err(Error::unavailable("connecting timed out")))
    }

    /// Stores a batch and tells every caller. A statement that fails was rolled back, so there is
    /// no gap; then each room goes by itself, so that one that somebody holds for long keeps no
    /// other, and at last each message.
    async fn write(&self, queue: &Queue, feed: &Feed, batch: Vec<Job>) {
        match self.store(&batch).await {
            Ok(outcomes) => {
                queue.stored(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Stored { .. })).count());
                let stored = batch.iter().zip(&outcomes);
                feed.stored(stored.filter_map(|(job, outcome)| Some((job.tenant, outcome.message(&job.new)?))));
                batch.iter().filter(|job| job.told != 0).for_each(|job| feed.outbox_filled(job.tenant));
                batch.into_iter().zip(outcomes).for_each(|(job, outcome)| job.finish(Ok(outcome)));
            }
            Err(_) if batch.len() > 1 && !self.client.is_closed() && !of_one_room(&batch) => {
                for room in by_room(batch) {
                    Box::pin(self.write(queue, feed, room)).await;
                }
            }
            Err(Error::Database(_)) if batch.len() > 1 && !self.client.is_closed() => {
                for job in batch {
                    Box::pin(self.write(queue, feed, vec![job])).await;
                }
            }
            Err(error) => {
                // All share one cause: it is logged with the first.
                let mut cause = Some(error);
                for job in batch {
                    let error = cause.take().unwrap_or_else(|| Error::unavailable("a batch of messages failed"));
                    job.finish(Err(error));
                }
            }
        }
    }

    async fn store(&self, batch: &[Job]) -> Result<Vec<Outcome>> {
        match timeout(PATIENCE, self.statements.store(&self.client, batch)).await {
            Ok(Ok(outcomes)) => Ok(outcomes),
            // Another node stored the same id at this moment: refused, and another look finds it.
            Ok(Err(error)) if batch.len() == 1 && error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                Ok(vec![Outcome::Refused])
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::unavailable("a message took too long")),
        }
    }
}

fn room(job: &Job) -> (TenantId, RoomId) {
    (job.tenant, job.new.room_id)
}

fn of_one_room(batch: &[Job]) -> bool {
    batch.windows(2).all(|pair| room(&pair[0]) == room(&pair[1]))
}

/// Cuts a sorted batch where the room changes.
fn by_room(batch: Vec<Job>) -> Vec<Vec<Job>> {
    let mut rooms: Vec<Vec<Job>> = Vec::new();
    for job in batch {
        match rooms.last_mut() {
            Some(last) if last.first().is_some_and(|first| room(first) == room(&job)) => last.push(job),
            _ => rooms.push(vec![job]),
        }
    }
    rooms
}
