//! Brings the schema up to date: forward only, by itself at every start, on several nodes at once.

use std::time::Duration;

use tokio::time::sleep;

use crate::{Connector, Error, Result};

refinery::embed_migrations!("../../migrations");

/// The advisory lock that a migrating node holds. Any number; the same for all nodes.
const LOCK: i64 = 0x6368_6174_6170_6931;

/// The oldest `PostgreSQL` that will do, as `server_version_num`.
const OLDEST: i32 = 140_000;

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
