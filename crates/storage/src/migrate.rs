//! Brings the schema up to date: forward only, by itself at every start, on several nodes at once.

use std::time::Duration;

use tokio::time::sleep;

use crate::db::Db;
use crate::row::get;
use crate::{Connector, Error, Result};

refinery::embed_migrations!("../../migrations");

/// The advisory lock that a migrating node holds. Any number; the same for all nodes.
const LOCK: i64 = 0x6368_6174_6170_6931;

/// The oldest `PostgreSQL` that will do, as `server_version_num`.
const OLDEST: i32 = 140_000;

/// How far the schema of a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The version of the `PostgreSQL` server.
    pub server_version: String,
    /// The newest migration that was run; none if the schema is missing.
    pub version: Option<i32>,
    /// The newest migration that this program has.
    pub needed: i32,
}

const HAS_HISTORY: &str = "
    select current_setting('server_version') as server_version,
           to_regclass('refinery_schema_history') is not null as has_history";

const VERSION: &str = "select max(version) as version from refinery_schema_history";

/// Looks how far the schema is.
pub(crate) async fn schema(db: &Db) -> Result<Schema> {
    let row = db.query_opt(HAS_HISTORY, &[]).await?.ok_or(Error::unavailable("no answer"))?;
    let has_history: bool = get(&row, "has_history")?;
    let history = if has_history { db.query_opt(VERSION, &[]).await? } else { None };
    let version = history.map_or(Ok(None), |row| get(&row, "version"))?;
    let needed = migrations::runner().get_migrations().iter().map(refinery::Migration::version).max();
    Ok(Schema { server_version: get(&row, "server_version")?, version, needed: needed.unwrap_or(0) })
}

/// Runs the migrations that are still missing. Nodes that start together take turns.
///
/// The lock is tried in a loop: refinery takes none, and a node that *waits* for one holds a
/// transaction open that `create index concurrently` of another would wait for in turn.
pub(crate) async fn run(connector: &Connector) -> Result<()> {
    let (config, tls) = connector.plain();
    let (mut client, connection) = config.connect(tls).await?;
    let migration = async move {
        let version: i32 = client.query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
        if version < OLDEST {
            return Err(Error::Database(format!("PostgreSQL 14 or newer is needed, this is {version}").into()));
        }
        while !client.query_one("select pg_try_advisory_lock($1)", &[&LOCK]).await?.get::<_, bool>(0) {
            sleep(Duration::from_millis(100)).await;
        }
        let report = migrations::runner().run_async(&mut client).await;
        let report = report.map_err(|error| Error::Database(error.into()))?;
        for applied in report.applied_migrations() {
            tracing::info!(migration = %applied, "Migrated the database");
        }
        // The connection ends here, and the lock with it.
        Ok(())
    };
    let (done, _) = tokio::join!(migration, connection);
    done
}
