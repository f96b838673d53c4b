//! A store beside the servers: what commands work with.

use chatapi_domain::Fact;
use chatapi_storage::{Connector, Options, Signal, Store};
use chatapi_testkit::Database;
use tokio::time::{Duration, sleep, timeout};

use crate::chat::tenant;

fn beside(database: &Database) -> Store {
    let connector = Connector::parse(database.url()).expect("our own URL");
    Store::connect_beside(connector, Options { pool_size: 2, writers: 1 }).expect("a store")
}

#[tokio::test]
async fn it_is_no_node_and_what_it_changes_is_told_to_the_nodes() {
    let database = Database::new().await;
    let node = database.store();
    let mut told = node.feed().told();
    while !node.feed().is_listening() {
        sleep(Duration::from_millis(5)).await;
    }
    let beside = beside(&database);
    let tenant_id = tenant(&beside).await;

    beside.tenants().delete(tenant_id).await.expect("deleting");

    let heard = async {
        loop {
            let signal = told.next().await.expect("it goes on");
            if matches!(&*signal, Signal::Fact { tenant_id: of, fact: Fact::TenantChanged } if *of == tenant_id) {
                break;
            }
        }
    };
    timeout(Duration::from_secs(10), heard).await.expect("told in time");
    let nodes: i64 = database.client().await.query_one("select count(*) from nodes", &[]).await.expect("asked").get(0);
    assert_eq!(nodes, 1, "only the node is one");
    beside.close().await;
    node.close().await;
}

#[tokio::test]
async fn the_schema_is_missing_older_or_newer_and_looking_changes_nothing() {
    let database = Database::new().await;
    let store = beside(&database);
    let sql = database.client().await;
    let now = store.schema().await.expect("there");
    assert_eq!(now.version, Some(now.needed));
    assert!(now.server_version.starts_with(|first: char| first.is_ascii_digit()), "{}", now.server_version);

    let newest =
        "delete from refinery_schema_history where version = (select max(version) from refinery_schema_history)";
    sql.execute(newest, &[]).await.expect("as an older one left it");
    assert_eq!(store.schema().await.expect("there").version, Some(now.needed - 1));
    sql.batch_execute("drop table refinery_schema_history").await.expect("as an empty database");
    assert_eq!(store.schema().await.expect("reached").version, None);
    assert_eq!(store.schema().await.expect("reached").version, None, "it was only looked at");
    store.close().await;
}
