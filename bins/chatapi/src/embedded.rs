//! Where the embedded database is, for the server and for the commands.

use std::path::PathBuf;

use chatapi_cluster::{Error, Options, reachable_instead_of};

use crate::config::{Config, Database};

/// Starts, or does something else with, the cluster of this configuration; below a folder that
/// the user postgres cannot enter, such as `/root`, where it can, unless `DATA_DIR` is set.
pub(crate) async fn reachable<T>(
    config: &Config,
    start: impl AsyncFn(&Options) -> Result<T, Error>,
) -> Result<T, Error> {
    let (data_dir, bin_dir) = match &config.database {
        Database::Embedded { data_dir, bin_dir } => (data_dir.clone(), bin_dir.clone()),
        Database::Url(_) => (None, None),
    };
    let is_chosen = data_dir.is_some();
    let mut options = Options::new(data_dir.unwrap_or_else(|| PathBuf::from("data")));
    options.bin_dir = bin_dir;
    let ours = u32::try_from(config.pool_size + config.writers).unwrap_or(u32::MAX);
    options.max_connections = ours.saturating_add(20).max(100);
    match start(&options).await {
        Err(Error::Unreachable { folder, .. }) if !is_chosen => {
            options.data_dir = reachable_instead_of(&folder);
            tracing::warn!(
                folder = %options.data_dir.display(),
                "The user postgres cannot reach ./data, so the database is kept elsewhere (set DATA_DIR to choose)"
            );
            start(&options).await
        }
        started => started,
    }
}
