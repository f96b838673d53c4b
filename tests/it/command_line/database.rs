//! `chatapi migrate`, `chatapi check`, and what all commands do with the configuration.

use chatapi_testkit::Database;
use chatapi_tests::{App, CommandLine};
use serde_json::{Value, json};

const MASTER_KEY: &str = "a-master-key-of-more-than-32-characters";

/// Commands that need a schema, with what they need besides.
const NEED_A_SCHEMA: [&[&str]; 9] = [
    &["tenant", "create", "x"],
    &["tenant", "list"],
    &["tenant", "suspend", "x"],
    &["tenant", "resume", "x"],
    &["tenant", "delete", "x", "--yes"],
    &["key", "create", "x"],
    &["key", "list", "x"],
    &["key", "rotate", "x", "y"],
    &["key", "revoke", "x", "y", "--yes"],
];

#[tokio::test]
async fn only_migrate_changes_the_schema_and_the_others_say_that_it_is_needed() {
    let database = Database::new().await;
    let sql = database.client().await;
    let cli = CommandLine::on(database.url()).set("MASTER_API_KEY", MASTER_KEY);
    let current = cli.run(&["migrate", "--json"]).await.json();
    let version = current["schema_version"].as_i64().expect("a version");
    assert_eq!(current, json!({"schema_version": version, "previous_version": version}));
    let all = async |said: &str| {
        for words in NEED_A_SCHEMA {
            cli.run(words).await.failed(1, said);
        }
        let check = cli.run(&["check", "--json"]).await;
        assert!(check.code == Some(1) && check.stderr.contains(said), "{check:?}");
        serde_json::from_str::<Value>(&check.stdout).expect("one document")["database"].clone()
    };

    sql.batch_execute("drop schema public cascade; create schema public").await.expect("emptied");
    let found = all("no schema yet; run: chatapi migrate").await;
    assert_eq!((&found["reachable"], &found["schema_version"]), (&json!(true), &Value::Null));
    let made = cli.run(&["migrate", "--json"]).await.json();
    assert_eq!(made, json!({"schema_version": version, "previous_version": null}));
    cli.run(&["tenant", "create", "t"]).await.done();
    assert_eq!(cli.run(&["migrate"]).await.done(), format!("The schema is up to date: version {version}.\n"));

    let newer = "insert into refinery_schema_history values (900, 'from_tomorrow', '2026-01-01T00:00:00Z', '1')";
    sql.execute(newer, &[]).await.expect("as a newer one leaves it");
    let found = all("version 900, newer than").await;
    assert_eq!((&found["schema_version"], &found["needed_schema_version"]), (&json!(900), &json!(version)));
    cli.run(&["migrate"]).await.failed(1, "use a newer chatapi (chatapi migrate does not go back)");
    sql.execute("delete from refinery_schema_history where version > 1", &[]).await.expect("as an older one left it");
    all("has version 1, and").await;
}

#[tokio::test]
async fn a_migration_waits_for_another_one_and_a_signal_ends_that() {
    let database = Database::new().await;
    let (cli, other) = (CommandLine::on(database.url()), database.client().await);
    // As a node does while it migrates.
    other.batch_execute("select pg_advisory_lock(7163082359811631409)").await.expect("locked");

    cli.run_for_a_second(&["migrate"]).await.failed(1, "interrupted");

    drop(other);
    cli.run(&["migrate"]).await.done();
}

#[tokio::test]
async fn check_reports_what_is_set_and_how_the_database_is_without_secrets() {
    let app = App::start().await;
    let url = app.database_url().expect("not embedded");
    let cli = CommandLine::on(&url).set("MASTER_API_KEY", MASTER_KEY).set("METRICS_TOKEN", "sesame");
    let cli = cli.set("LISTEN_ADDR", ":9090");

    let report = cli.run(&["check", "--json"]).await.json();

    let set = |name: &str, value: Value| json!({"name": name, "value": value});
    let hidden = |name: &str| set(name, Value::Null);
    let listen = set("LISTEN_ADDR", json!(":9090"));
    let variables = [hidden("DATABASE_URL"), listen, hidden("MASTER_API_KEY"), hidden("METRICS_TOKEN")];
    assert_eq!(report["variables"], json!(variables));
    let database = &report["database"];
    for field in ["reachable", "writable"] {
        assert_eq!(database[field], true, "{database}");
    }
    assert_eq!(
        (&database["embedded"], &database["schema_version"]),
        (&json!(false), &database["needed_schema_version"])
    );
    let people = cli.run(&["check"]).await.done();
    assert!(people.contains("LISTEN_ADDR            :9090\n") && people.contains("writable               yes\n"));
    for secret in [MASTER_KEY, "sesame"] {
        assert!(!people.contains(secret) && !report.to_string().contains(secret), "{people}");
    }

    // A standby, say.
    let name = app.sql().await.query_one("select current_database()::text", &[]).await.expect("asked");
    let read_only = format!("alter database {} set default_transaction_read_only = on", name.get::<_, String>(0));
    app.sql().await.batch_execute(&read_only).await.expect("set");
    let check = cli.run(&["check", "--json"]).await;
    let report: Value = serde_json::from_str(&check.stdout).expect("one document");
    let database = &report["database"];
    assert_eq!((check.code, &database["reachable"], &database["writable"]), (Some(1), &json!(true), &json!(false)));
    assert!(check.stderr.contains("read-only transaction"), "{check:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_exit_1_and_its_password_stays_hidden() {
    let cli = CommandLine::on("postgres://someone:sesame@127.0.0.1:1/chat").set("MASTER_API_KEY", MASTER_KEY);

    for words in [&["tenant", "list"][..], &["migrate"], &["tenant", "create", "x", "--json"]] {
        let ran = cli.run(words).await;
        ran.failed(1, "the database is unavailable");
        assert!(!ran.stderr.contains("sesame"), "{ran:?}");
    }
    let check = cli.run(&["check", "--json"]).await;
    assert!(check.code == Some(1) && check.stderr.contains("the database is unavailable"), "{check:?}");
    let report: Value = serde_json::from_str(&check.stdout).expect("one document");
    assert_eq!(report["database"]["address"], "postgres://someone@127.0.0.1:1/chat");
    assert_eq!((&report["database"]["reachable"], &report["database"]["writable"]), (&json!(false), &json!(false)));
    assert!(!check.stdout.contains("sesame") && !check.stderr.contains("sesame"), "{check:?}");
}

#[tokio::test]
async fn every_wrong_variable_is_reported_and_a_master_key_is_needed_only_to_serve_and_to_check() {
    let database = Database::new().await;
    let wrong = CommandLine::on(database.url()).set("LISTEN_ADDR", "8080").set("DATABASE_POOL_SIZE", "0");
    let wrong = wrong.set("MASTER_API_KEY_HASH", "no hash");

    for words in [&["tenant", "list"][..], &["migrate"], &["check"], &["key", "list", "x", "--json"]] {
        let ran = wrong.run(words).await;
        for name in ["LISTEN_ADDR: ", "DATABASE_POOL_SIZE: ", "MASTER_API_KEY_HASH: "] {
            ran.failed(2, name);
        }
        assert!(!ran.stderr.contains("MASTER_API_KEY: ") && !ran.stderr.contains("no hash"), "{ran:?}");
    }
    let cli = CommandLine::on(database.url());
    cli.run(&["tenant", "list"]).await.done();
    cli.run(&["migrate"]).await.done();
    cli.run(&["check"]).await.failed(2, "MASTER_API_KEY: is required");
    let short = cli.set("MASTER_API_KEY", "short").run(&["check"]).await;
    assert!(short.code == Some(0) && short.stderr.contains("fewer than 32 characters"), "{short:?}");
}

#[tokio::test]
async fn variables_come_from_a_file_too_wherever_the_option_stands() {
    let database = Database::new().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("chatapi.env");
    let hash = CommandLine::bare().run_with(&["hash-master-key"], MASTER_KEY).await.done();
    let lines = format!("DATABASE_URL={}\nMASTER_API_KEY_HASH='{}'\n", database.url(), hash.trim());
    std::fs::write(&file, lines).expect("written");
    let file = file.to_str().expect("a text");
    let cli = CommandLine::bare();

    cli.run(&["--env-file", file, "tenant", "create", "t"]).await.done();
    let list = cli.run(&["tenant", "list", "--json", "--env-file", file]).await.json();
    let report = cli.run(&["check", "--json", "--env-file", file]).await.json();

    assert_eq!(list["tenants"][0]["name"], "t");
    assert_eq!(report["variables"][1], json!({"name": "MASTER_API_KEY_HASH", "value": null}));
    cli.run(&["--env-file", "/nowhere", "migrate"]).await.failed(2, "--env-file /nowhere: ");
}
