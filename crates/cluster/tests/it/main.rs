//! A cluster of our own, with real processes.

use std::path::Path;
use std::time::Duration;

use chatapi_cluster::{Borrowed, Cluster, Error, Options, Programs};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("our own folder");
    folder
}

fn options(folder: &Path) -> Options {
    Options { durable: false, ..Options::new(folder.join("data")) }
}

async fn connect(cluster: &Cluster) -> Client {
    let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.expect("it accepts connections");
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client
}

fn kill(signal: &str, pid: u32) {
    let killed = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

#[tokio::test]
async fn what_is_written_is_there_after_a_stop_and_a_start() {
    let folder = folder();
    let cluster = Cluster::start(&options(folder.path())).await.expect("started");
    let setup = "create table t (n int); insert into t values (7)";
    connect(&cluster).await.batch_execute(setup).await.expect("written");
    cluster.stop().await.expect("stopped");

    let cluster = Cluster::start(&options(folder.path())).await.expect("started again");

    let row = connect(&cluster).await.query_one("select n from t", &[]).await.expect("read");
    assert_eq!(row.get::<_, i32>(0), 7);
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn one_owner_at_a_time() {
    let folder = folder();
    let cluster = Cluster::start(&options(folder.path())).await.expect("started");

    let second = Cluster::start(&options(folder.path())).await;

    assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_running_cluster_is_borrowed_and_goes_on_running() {
    let folder = folder();
    let options = options(folder.path());
    let cluster = Cluster::start(&options).await.expect("started");

    let borrowed = Borrowed::take(&options).await.expect("it runs");

    assert!(matches!(&borrowed, Borrowed::Running { url } if *url == cluster.url()), "{borrowed:?}");
    borrowed.give_back().await.expect("nothing to do");
    connect(&cluster).await.batch_execute("select 1").await.expect("served");
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_cluster_that_nobody_runs_is_started_for_one_borrower_at_a_time_and_a_server_waits() {
    let folder = folder();
    let options = options(folder.path());
    let none = Borrowed::take(&options).await;
    assert!(matches!(none, Err(Error::NoCluster { .. })), "{none:?}");
    assert!(!folder.path().join("data").exists(), "nothing was made");
    let first = Borrowed::take_or_make(&options).await.expect("made");
    assert!(matches!(first, Borrowed::Started(_)), "{first:?}");

    let (second, server) = (Borrowed::take(&options), Cluster::start(&options));
    let (second, server) = (timeout(Duration::from_millis(500), second), timeout(Duration::from_millis(500), server));
    let (second, server) = tokio::join!(second, server);
    assert!(second.is_err() && server.is_err(), "both wait: {second:?} {server:?}");
    let (given, server) = tokio::join!(first.give_back(), Cluster::start(&options));

    given.expect("stopped");
    let server = server.expect("its turn");
    connect(&server).await.batch_execute("select 1").await.expect("served");
    server.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_cluster_of_another_user_is_left_alone() {
    let folder = folder();
    let cluster = folder.path().join("data/postgres");
    Cluster::start(&options(folder.path())).await.expect("started").stop().await.expect("stopped");
    let Ok(()) = std::os::unix::fs::chown(&cluster, Some(12345), None) else {
        eprintln!("only root can give a folder away");
        return;
    };

    let refused = Borrowed::take(&options(folder.path())).await;

    assert!(matches!(refused, Err(Error::NotOurs { owner: 12345, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_started_again() {
    let folder = folder();
    let mut cluster = Cluster::start(&options(folder.path())).await.expect("started");
    let session = connect(&cluster).await;
    kill("-KILL", cluster.pid().expect("it runs"));

    timeout(Duration::from_secs(10), cluster.ended()).await.expect("noticed").expect("waited for");
    cluster.restart().await.expect("started again");

    assert!(session.is_closed() || session.batch_execute("select 1").await.is_err());
    connect(&cluster).await.batch_execute("select 1").await.expect("served");
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_cluster_that_was_cut_short_is_made_anew() {
    let folder = folder();
    let half = folder.path().join("data/postgres.new");
    std::fs::create_dir_all(&half).expect("made");
    std::fs::write(half.join("PG_VERSION"), "15").expect("written");

    let cluster = Cluster::start(&options(folder.path())).await.expect("started");

    connect(&cluster).await.batch_execute("select 1").await.expect("served");
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_stale_number_of_another_process_does_not_stop_the_start() {
    let folder = folder();
    let cluster = Cluster::start(&options(folder.path())).await.expect("started");
    let (pid, file) = (cluster.pid().expect("it runs"), folder.path().join("data/postgres/postmaster.pid"));
    let text = std::fs::read_to_string(&file).expect("it is there");
    cluster.stop().await.expect("stopped");
    // As after a crash of the machine: the number belongs to somebody else by now.
    let stranger = std::process::id().to_string();
    std::fs::write(&file, text.replacen(&pid.to_string(), &stranger, 1)).expect("written");

    let cluster = Cluster::start(&options(folder.path())).await.expect("started");

    connect(&cluster).await.batch_execute("select 1").await.expect("served");
    cluster.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_long_path_has_its_socket_elsewhere_and_works() {
    let folder = folder();
    let long = folder.path().join("x".repeat(120)).join("with a space, and a comma");
    let cluster = Cluster::start(&options(&long)).await.expect("started");

    assert!(cluster.socket_dir().starts_with("/tmp"));
    connect(&cluster).await.batch_execute("select 1").await.expect("served");
    let sockets = cluster.socket_dir().to_path_buf();
    cluster.stop().await.expect("stopped");
    std::fs::remove_dir_all(sockets).expect("it is ours");
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let nowhere = Programs::find(Some(Path::new("/nonexistent")), None).expect_err("nothing there").to_string();
    assert!(nowhere.contains("/nonexistent") && nowhere.contains("apt-get install postgresql"), "{nowhere}");

    let folder = folder();
    std::fs::create_dir_all(folder.path().join("data/postgres")).expect("made");
    std::fs::write(folder.path().join("data/postgres/PG_VERSION"), "9\n").expect("written");
    let old = Cluster::start(&options(folder.path())).await.expect_err("too old").to_string();
    assert!(old.contains("of version 9, which the cluster needs"), "{old}");
}
