//! `chatapi migrate`

use serde_json::json;

use super::output::Output;
use super::session::{Session, check_schema};
use crate::config::Config;
use crate::failure::Failure;

/// Brings the schema up to date.
pub(super) async fn run(output: Output, config: Config) -> Result<(), Failure> {
    Session::run_on_any(config, true, async |session| {
        let before = session.store.schema().await?;
        if before.version.is_some_and(|version| version > before.needed) {
            return check_schema(&before);
        }
        session.store.migrate().await?;
        let after = session.store.schema().await?;
        let view = json!({ "schema_version": after.version, "previous_version": before.version });
        output.print(&view, || {
            let version = after.version.unwrap_or(0);
            match before.version {
                Some(previous) if previous == version => {
                    format!("The schema is up to date: version {version}.\n")
                }
                Some(previous) => format!("The schema was brought from version {previous} to {version}.\n"),
                None => format!("The schema was made: version {version}.\n"),
            }
        })
    })
    .await
}
