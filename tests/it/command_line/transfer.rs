//! `chatapi export` and `chatapi import`

use std::os::unix::fs::PermissionsExt;

use chatapi_tests::App;
use serde_json::{Value, json};

use super::{NOBODY, answers, audited, text};

#[tokio::test]
async fn a_tenant_goes_from_one_installation_to_another_by_file_and_by_pipe() {
    let (here, there) = (App::start().await, App::start().await);
    let tenant = here.tenant_with("moves", json!({"max_message_bytes": 70})).await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    for n in 0..300 {
        tenant.user("alice").say(&room, &format!("message {n}")).await;
    }
    let (cli, folder) = (here.command_line(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("moves.ndjson");
    let path = file.to_str().expect("a text");

    let told = cli.run(&["export", &tenant.id, "-o", path, "--json"]).await.json();

    let counts = json!({"rooms": 1, "members": 2, "messages": 300, "last_seen": 0});
    assert_eq!(told["exported"], counts);
    let written = std::fs::read_to_string(&file).expect("written");
    assert_eq!(told["bytes"], written.len());
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600, "for nobody else to read");
    assert_eq!(std::fs::read_dir(folder.path()).expect("ours").count(), 1, "nothing is left beside it");
    let piped = cli.run(&["export", &tenant.id]).await;
    // But for the moment of the export, and the sum that covers it.
    let lines = |text: &str| text.lines().skip(1).take(303).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((piped.code, piped.stderr.as_str(), lines(&piped.stdout)), (Some(0), "", lines(&written)));
    let entry = |action: &str, target: &str, outcome: &str| [action, target, outcome].map(str::to_owned);
    assert_eq!(audited(&here).await, [entry("tenant.export", "-", "ok"), entry("tenant.export", "-", "ok")]);

    let made = there.command_line().run(&["import", path, "--json"]).await.json();

    assert_eq!((text(&made, "tenant_id"), &made["imported"]), (tenant.id.clone(), &counts));
    assert_eq!((&made["name"], &made["config"]["max_message_bytes"]), (&json!("moves"), &json!(70)));
    answers(&[&there], &text(&made, "api_key"), 200).await;
    let moved = tenant.through(&there).with_key(&text(&made, "api_key"));
    let history = format!("/rooms/{room}/messages?order=desc");
    let (before, after) = (tenant.user("bob").get(&history).await, moved.user("bob").get(&history).await);
    assert_eq!(before.expect(200).text, after.expect(200).text);
    assert_eq!(audited(&there).await, [entry("tenant.import", &text(&made, "key_id"), "ok")]);

    // Again it is there already; under another id, from a pipe, it is another tenant.
    there.command_line().run(&["import", path]).await.failed(1, "There is a tenant of this id");
    let other = "tenant_01m85d2282fwpbhy8gt3navx72";
    let second = there.command_line().run_with(&["import", "-", "--tenant-id", other, "--json"], &piped.stdout).await;
    assert_eq!(second.json()["tenant_id"], other);
    assert_eq!(there.admin("GET", "/admin/tenants", None).await.expect(200).each("tenants", "name").len(), 2);
    let people = there.command_line().run_with(&["import", "-", "--tenant-id", NOBODY], &piped.stdout).await.done();
    assert!(people.contains("messages    300\n") && people.contains("\napi_key "), "{people}");
}

#[tokio::test]
async fn what_cannot_be_exported_or_imported_is_said_and_leaves_nothing() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&room, "one").await;
    let (cli, folder) = (app.command_line(), tempfile::tempdir().expect("a folder"));
    let path = |name: &str| folder.path().join(name).to_str().expect("a text").to_owned();

    cli.run(&["export", NOBODY, "-o", &path("none")]).await.failed(1, "Tenant not found");
    cli.run(&["export", "nobody", "-o", &path("none")]).await.failed(1, "Tenant not found");
    cli.run(&["export", &tenant.id, "-o", &path("no/such/folder")]).await.failed(1, "No such file or directory");
    cli.run(&["export", &tenant.id, "--json"]).await.failed(2, "--json goes with -o FILE");
    let seen = cli.run_at_terminal(&["export", &tenant.id], "").await;
    assert_eq!(seen.code, Some(2), "{seen:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("ours").count(), 0);
    cli.run(&["import", &path("absent")]).await.failed(1, "No such file or directory");
    cli.run(&["import", "-", "--tenant-id", "x"]).await.failed(2, "expected the id of a tenant");

    let whole = cli.run(&["export", &tenant.id]).await.done();
    let lines: Vec<&str> = whole.lines().collect();
    let without = |line: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| format!("{line}\n"));
        kept.collect::<String>()
    };
    for (damaged, said) in [
        (String::new(), "line 1"),
        (without(0), "line 1"),
        (without(3), "line 4"),
        (whole.replace("one", "two"), "line 5"),
        (whole[..whole.len() - 30].to_owned(), "line 5"),
    ] {
        let words = ["import", "-", "--tenant-id", NOBODY];
        cli.run_with(&words, &damaged).await.failed(2, said);
    }
    assert_eq!(app.admin("GET", &format!("/admin/tenants/{NOBODY}"), None).await.status, 404);
    let outcomes: Vec<Value> =
        audited(&app).await.into_iter().map(|[action, _, outcome]| json!([action, outcome])).collect();
    let refused = |action: &str, outcome: &str, times: usize| vec![json!([action, outcome]); times];
    let expected = [
        refused("tenant.export", "not_found", 2),
        refused("tenant.export", "internal_error", 1),
        refused("tenant.export", "ok", 1),
        refused("tenant.import", "invalid_request", 5),
    ];
    assert_eq!(outcomes, expected.concat());
}

#[tokio::test]
async fn an_interrupted_export_or_import_leaves_nothing_but_an_entry_of_the_audit_log() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, path) = (folder.path().join("whole"), folder.path().join("t"));
    let [whole, path] = [&whole, &path].map(|path| path.to_str().expect("a text"));
    let cli = app.command_line();
    cli.run(&["export", &tenant.id, "-o", whole]).await.done();
    // As long as another holds the table neither gets to its end.
    let sql = app.sql().await;
    sql.batch_execute("begin; lock table messages, tenants").await.expect("locked");

    cli.run_for_a_second(&["export", &tenant.id, "-o", path]).await.failed(1, "interrupted");
    cli.run_for_a_second(&["import", whole, "--tenant-id", NOBODY]).await.failed(1, "interrupted");

    sql.batch_execute("rollback").await.expect("released");
    assert_eq!(std::fs::read_dir(folder.path()).expect("ours").count(), 1, "nothing beside the whole one");
    assert_eq!(app.admin("GET", &format!("/admin/tenants/{NOBODY}"), None).await.status, 404);
    let entries: Vec<_> = audited(&app).await.into_iter().map(|[action, _, outcome]| (action, outcome)).collect();
    let entry = |action: &str, outcome: &str| (action.to_owned(), outcome.to_owned());
    let [export, import] = ["tenant.export", "tenant.import"];
    assert_eq!(entries, [entry(export, "ok"), entry(export, "interrupted"), entry(import, "interrupted")]);
}
