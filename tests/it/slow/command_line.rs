//! api.md 8: commands with the embedded database, its server up or down.

use std::time::Duration;

use chatapi_tests::{App, CommandLine};
use serde_json::Value;
use tokio::time::{Instant, sleep};

fn key(made: &Value) -> &str {
    made["api_key"].as_str().expect("a key")
}

async fn status(app: &App, key: &str) -> u16 {
    app.send("GET", "/tenant", &[("X-API-Key", key)], None).await.status
}

#[tokio::test]
async fn with_the_server_down_commands_run_the_database_in_turn_and_leave_it_stopped() {
    let mut app = App::builder().embedded().start().await;
    let data = app.data_dir();
    let (cli, pid_file) = (app.command_line(), data.join("postgres/postmaster.pid"));
    assert_eq!(app.signal("TERM").await, Some(0));

    let words = ["tenant", "create", "t", "--json"];
    let (one, two, three) = tokio::join!(cli.run(&words), cli.run(&words), cli.run(&["tenant", "list"]));

    let (one, two) = (one.json(), two.json());
    three.done();
    assert!(!pid_file.exists(), "the database is stopped");
    let app = app.restart().await;
    app.ready().await;
    assert_eq!([status(&app, key(&one)).await, status(&app, key(&two)).await], [200, 200]);
}

#[tokio::test]
async fn with_the_server_up_commands_use_its_database_and_leave_it_running() {
    let app = App::builder().embedded().start().await;
    let cli = app.command_line();

    let made = cli.run(&["tenant", "create", "t", "--json"]).await.json();
    let check = cli.clone().set("MASTER_API_KEY", &"x".repeat(32)).run(&["check", "--json"]).await.json();

    assert_eq!(status(&app, key(&made)).await, 200);
    assert_eq!(
        (check["database"]["embedded"].as_bool(), check["database"]["writable"].as_bool()),
        (Some(true), Some(true))
    );
    let (tenant, id) = (made["tenant_id"].as_str().expect("an id"), made["key_id"].as_str().expect("an id"));
    cli.run(&["key", "revoke", tenant, id, "--yes"]).await.done();
    let start = Instant::now();
    while status(&app, key(&made)).await != 401 {
        assert!(start.elapsed() < Duration::from_secs(1), "within a second");
    }
    cli.run(&["tenant", "delete", tenant, "--yes"]).await.done();
    let path = format!("/admin/tenants/{tenant}");
    // A server looks every 10 s for what others want erased.
    while app.admin("GET", &path, None).await.status != 404 {
        assert!(start.elapsed() < Duration::from_secs(30), "the server erases it");
        sleep(Duration::from_millis(100)).await;
    }
    cli.run(&["tenant", "delete", tenant, "--yes"]).await.failed(1, "Tenant not found");
    assert_eq!(app.get("/health").await.expect(200).body["db_writable"], true);
}

#[tokio::test]
async fn without_a_database_only_migrate_makes_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("our own folder");
    let cli = CommandLine::embedded(&folder.path().join("data"));

    cli.run(&["tenant", "list"]).await.failed(1, "it is made by: chatapi migrate");
    assert!(!folder.path().join("data").exists(), "nothing was made");
    let made = cli.run(&["migrate", "--json"]).await.json();

    assert!(made["schema_version"].is_i64() && made["previous_version"].is_null(), "{made}");
    cli.run(&["tenant", "create", "t"]).await.done();
    assert!(!folder.path().join("data/postgres/postmaster.pid").exists(), "the database is stopped");
}
