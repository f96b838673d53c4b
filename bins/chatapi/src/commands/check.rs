//! `chatapi check`

use std::path::Path;

use chatapi_storage::Schema;
use serde::Serialize;

use super::output::{Output, cell, table};
use super::session::{Session, check_schema, now};
use crate::config::{Config, Database, Variable};
use crate::failure::Failure;

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    variables: Vec<VariableView>,
    database: DatabaseView,
}

#[derive(Debug, Serialize)]
struct VariableView {
    name: &'static str,
    /// Absent if it is a secret.
    value: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct DatabaseView {
    address: Option<String>,
    embedded: bool,
    reachable: bool,
    writable: bool,
    server_version: Option<String>,
    schema_version: Option<i32>,
    needed_schema_version: Option<i32>,
}

/// Reports what is set and how the database is; fails with the first thing that keeps a server
/// from serving.
pub(super) async fn run(output: Output, env_file: Option<&Path>) -> Result<(), Failure> {
    let (config, master) = Config::read_for_server(env_file).map_err(Failure::Configuration)?;
    if master.is_short {
        tracing::warn!("MASTER_API_KEY has fewer than 32 characters; make one with: openssl rand -hex 32");
    }
    let mut report = Report {
        variables: config.variables.iter().map(VariableView::from).collect(),
        database: DatabaseView::of(&config.database),
    };
    let looked = Session::run_on_any(config, false, async |session| report.database.look(session).await).await;
    output.print(&report, || report.to_text())?;
    looked
}

impl From<&Variable> for VariableView {
    fn from(variable: &Variable) -> Self {
        Self { name: variable.name, value: variable.value.clone() }
    }
}

impl DatabaseView {
    fn of(database: &Database) -> Self {
        match database {
            // Known before it answers.
            Database::Url(connector) => Self { address: Some(connector.address()), ..Self::default() },
            Database::Embedded { .. } => Self { embedded: true, ..Self::default() },
        }
    }

    /// Asks the database, as far as it answers.
    async fn look(&mut self, session: &Session) -> Result<(), Failure> {
        self.address = Some(session.address.clone());
        let Schema { server_version, version, needed } = session.store.schema().await?;
        self.reachable = true;
        self.server_version = Some(server_version.clone());
        (self.schema_version, self.needed_schema_version) = (version, Some(needed));
        check_schema(&Schema { server_version, version, needed })?;
        session.store.probe(now()).await?;
        self.writable = true;
        Ok(())
    }
}

impl Report {
    fn to_text(&self) -> String {
        let variable = |set: &VariableView| {
            let hidden = || "(set)".to_owned();
            [set.name.to_owned(), set.value.clone().unwrap_or_else(hidden)]
        };
        let mut rows: Vec<[String; 2]> = self.variables.iter().map(variable).collect();
        let DatabaseView { address, embedded, reachable, writable, .. } = &self.database;
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let kind = if *embedded { "embedded" } else { "DATABASE_URL" };
        let found = [
            ("database", kind.to_owned()),
            ("address", cell(address.as_ref())),
            ("reachable", yes(*reachable)),
            ("server_version", cell(self.database.server_version.as_ref())),
            ("schema_version", cell(self.database.schema_version)),
            ("needed_schema_version", cell(self.database.needed_schema_version)),
            ("writable", yes(*writable)),
        ];
        rows.extend(found.map(|(name, value)| [name.to_owned(), value]));
        table(&rows)
    }
}
