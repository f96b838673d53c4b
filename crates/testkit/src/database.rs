//! A database of its own for each test, copied from a migrated template.

use std::env;

use chatapi_storage::{Connector, Options, Store};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{Cutter, SERVER_URL, Server};

const TEMPLATE: &str = "chatapi_template";

/// A migrated, empty database; dropped with the value.
#[derive(Debug)]
pub struct Database {
    url: String,
    admin_url: String,
    name: String,
}

impl Database {
    /// A new database.
    ///
    /// # Panics
    ///
    /// If there is no server: no test can run then.
    pub async fn new() -> Self {
        let admin_url = server_url().await;
        let admin = connect(&admin_url).await;
        prepare_template(&admin, &admin_url).await;
        let name = format!("test_{}", Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)).simple());
        admin.batch_execute(&format!("create database {name} template {TEMPLATE}")).await.expect("a database");
        Self { url: named(&admin_url, &name), admin_url, name }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A proxy to it that can be cut, and its URL through that.
    ///
    /// # Panics
    ///
    /// If there is no port.
    pub async fn cutter(&self) -> (Cutter, String) {
        let host = self.url.split_once('@').and_then(|(_, rest)| rest.split('/').next()).expect("our URLs have a host");
        let cutter = Cutter::start(format!("{}/.s.PGSQL.5432", host.replace("%2F", "/")).into()).await;
        let url = self.url.replace(host, &cutter.address().to_string());
        (cutter, url)
    }

    /// A plain connection to it, for looking at rows.
    ///
    /// # Panics
    ///
    /// If it cannot be reached.
    pub async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// A store on it.
    ///
    /// # Panics
    ///
    /// If its URL is wrong.
    #[must_use]
    pub fn store(&self) -> Store {
        let options = Options { pool_size: 8, ..Options::default() };
        Store::connect(Connector::parse(&self.url).expect("our own URL"), options).expect("a store")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, statement) = (self.admin_url.clone(), format!("drop database {} with (force)", self.name));
        // Drop cannot wait inside the test's own runtime.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else { return };
                let statement = async move { client.batch_execute(&statement).await };
                let _ = tokio::join!(statement, connection);
            });
        });
        let _ = dropping.join();
    }
}

/// The URL of the server for this run.
async fn server_url() -> String {
    static OWN: OnceCell<Server> = OnceCell::const_new();
    #[expect(clippy::disallowed_methods, reason = "how with-postgres tells the tests")]
    match env::var(SERVER_URL) {
        Ok(url) => url,
        Err(_) => OWN.get_or_init(Server::start).await.url().to_owned(),
    }
}

fn named(url: &str, database: &str) -> String {
    let (before, query) = url.split_once('?').expect("our URLs have a query");
    let (server, _) = before.rsplit_once('/').expect("our URLs have a path");
    format!("{server}/{database}?{query}")
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the test server is there");
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client
}

/// Makes the template, once a server however many processes ask.
async fn prepare_template(admin: &Client, admin_url: &str) {
    admin.batch_execute("select pg_advisory_lock(1)").await.expect("a lock");
    let exists = admin.query_opt("select from pg_database where datname = $1", &[&TEMPLATE]).await;
    if exists.expect("a catalog").is_none() {
        let building = format!("{TEMPLATE}_new");
        admin.batch_execute(&format!("drop database if exists {building}")).await.expect("dropped");
        admin.batch_execute(&format!("create database {building}")).await.expect("a database");
        let connector = Connector::parse(&named(admin_url, &building)).expect("our own URL");
        let store = Store::connect(connector, Options { pool_size: 1, writers: 1 }).expect("a store");
        store.migrate().await.expect("the migrations run");
        store.close().await;
        admin
            .batch_execute(&format!("alter database {building} rename to {TEMPLATE}"))
            .await
            .expect("nobody else uses it");
    }
    admin.batch_execute("select pg_advisory_unlock(1)").await.expect("unlocked");
}
