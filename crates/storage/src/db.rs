//! The pool of connections, and what a caller's statements cost.

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::{Connector, Error, Result};

/// What a statement is given.
pub(crate) type Params<'a> = [&'a (dyn ToSql + Sync)];

/// What a piece of work asked of the database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Round trips.
    pub queries: u32,
    /// Time spent waiting for them, for a connection included.
    pub waited: Duration,
}

tokio::task_local! {
    static WORK: Cell<Work>;
}

/// Runs `future` and counts what it asks of the database.
pub async fn measured<F: Future>(future: F) -> (F::Output, Work) {
    WORK.scope(Cell::new(Work::default()), async {
        let output = future.await;
        (output, WORK.with(Cell::get))
    })
    .await
}

/// Counts `queries` round trips that took until now since `start`, if anybody is counting.
pub(crate) fn count(queries: u32, start: Instant) {
    let _ = WORK.try_with(|work| {
        let before = work.get();
        work.set(Work { queries: before.queries + queries, waited: before.waited + start.elapsed() });
    });
}

/// How busy the pool is.
#[derive(Debug, Clone, Copy)]
pub struct PoolStatus {
    /// Connections open.
    pub open: usize,
    /// Connections nobody uses at the moment.
    pub idle: usize,
    /// Callers waiting for one.
    pub waiting: usize,
}

/// The pool. Every statement is prepared once a connection, so statements are constants.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    pool: Pool,
}

impl Db {
    pub(crate) fn new(connector: &Connector, size: usize) -> Result<Self> {
        let (config, tls) = connector.for_requests();
        // Nothing of ours sets session state, so a connection needs no cleaning.
        let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let timeouts = Timeouts {
            wait: Some(Duration::from_secs(5)),
            create: Some(Duration::from_secs(5)),
            recycle: Some(Duration::from_secs(5)),
        };
        // The connection used last is the warmest: going round all of them, each statement would find
        // another process of the database asleep.
        let pool = Pool::builder(manager).max_size(size).timeouts(timeouts).queue_mode(QueueMode::Lifo);
        let pool = pool.runtime(Runtime::Tokio1).build();
        Ok(Self { pool: pool.map_err(|error| Error::Unavailable(error.into()))? })
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus { open: status.size, idle: status.available, waiting: status.waiting }
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }

    pub(crate) async fn query(&self, sql: &'static str, params: &Params<'_>) -> Result<Vec<Row>> {
        Ok(self.try_query(sql, params).await??)
    }

    /// As [`Db::query`], for a caller who asks what the database had against the statement.
    pub(crate) async fn try_query(
        &self,
        sql: &'static str,
        params: &Params<'_>,
    ) -> Result<Result<Vec<Row>, tokio_postgres::Error>> {
        let start = Instant::now();
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, params).await;
        count(1, start);
        Ok(rows)
    }

    pub(crate) async fn query_opt(&self, sql: &'static str, params: &Params<'_>) -> Result<Option<Row>> {
        Ok(self.query(sql, params).await?.pop())
    }

    pub(crate) async fn execute(&self, sql: &'static str, params: &Params<'_>) -> Result<u64> {
        let start = Instant::now();
        let client = self.pool.get().await?;
        let statement = client.prepare_cached(sql).await?;
        let rows = client.execute(&statement, params).await;
        count(1, start);
        Ok(rows?)
    }

    /// A connection for a transaction: `client.begin()`.
    pub(crate) async fn client(&self) -> Result<Client> {
        let start = Instant::now();
        let object = self.pool.get().await?;
        count(0, start);
        Ok(Client { object })
    }
}

/// A connection taken from the pool.
#[derive(Debug)]
pub(crate) struct Client {
    object: Object,
}

impl Client {
    /// Begins a transaction; dropped without [`Tx::commit`] it is rolled back.
    pub(crate) async fn begin(&mut self) -> Result<Tx<'_>> {
        let start = Instant::now();
        let tx = self.object.transaction().await;
        count(1, start);
        Ok(Tx { tx: tx? })
    }
}

/// A transaction. It awaits nothing but the database.
pub(crate) struct Tx<'a> {
    tx: deadpool_postgres::Transaction<'a>,
}

impl Tx<'_> {
    pub(crate) async fn query(&self, sql: &'static str, params: &Params<'_>) -> Result<Vec<Row>> {
        let start = Instant::now();
        let statement = self.tx.prepare_cached(sql).await?;
        let rows = self.tx.query(&statement, params).await;
        count(1, start);
        Ok(rows?)
    }

    pub(crate) async fn query_opt(&self, sql: &'static str, params: &Params<'_>) -> Result<Option<Row>> {
        let start = Instant::now();
        let statement = self.tx.prepare_cached(sql).await?;
        let row = self.tx.query_opt(&statement, params).await;
        count(1, start);
        Ok(row?)
    }

    pub(crate) async fn execute(&self, sql: &'static str, params: &Params<'_>) -> Result<u64> {
        let start = Instant::now();
        let statement = self.tx.prepare_cached(sql).await?;
        let rows = self.tx.execute(&statement, params).await;
        count(1, start);
        Ok(rows?)
    }

    pub(crate) async fn commit(self) -> Result<()> {
        let start = Instant::now();
        let done = self.tx.commit().await;
        count(1, start);
        Ok(done?)
    }
}
