//! `chatapi tenant`

use chatapi_tests::App;
use serde_json::{Value, json};

use super::{NOBODY, answers, audited, closes, text, two_nodes};

#[tokio::test]
async fn a_tenant_is_made_as_by_http_and_its_key_works_on_every_node_at_once() {
    let (one, two) = two_nodes().await;
    let (cli, config) = (one.command_line(), r#"{"rate_limit": 7, "webhook_secret": "hush-hush"}"#);

    let made = cli.run(&["tenant", "create", "Müller & Söhne", "--config", config, "--json"]).await.json();

    for app in [&one, &two] {
        assert_eq!(app.send("GET", "/tenant", &[("X-API-Key", &text(&made, "api_key"))], None).await.status, 200);
    }
    let path = format!("/admin/tenants/{}", text(&made, "tenant_id"));
    let mut shown = made.clone();
    let fields = shown.as_object_mut().expect("an object");
    let secret = ["key_id", "api_key"].map(|field| fields.remove(field).expect("it is there"));
    assert_eq!(format!("key_{}", &secret[1].as_str().expect("a key")[3..15]), secret[0]);
    let stored = one.admin("GET", &path, None).await.expect(200).body;
    // The server of the tests has a default of its own, which this command was not told.
    assert_eq!((&stored["config"]["rate_limit"], &stored), (&json!(7), &shown));
    assert!(!made.to_string().contains("hush-hush"));
    let people = cli.run(&["tenant", "create", "plain"]).await;
    assert!(people.stderr.contains("shown this once"), "{people:?}");
    let rows: Vec<Vec<&str>> = people.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names, ["tenant_id", "name", "status", "created_at", "key_id", "api_key"]);
    answers(&[&one, &two], rows[5][1], 200).await;
    let keys = [text(&made, "key_id"), rows[4][1].to_owned()];
    assert_eq!(audited(&one).await, keys.map(|key| ["tenant.create".to_owned(), key, "ok".to_owned()]));
}

#[tokio::test]
async fn tenants_are_listed_all_of_them_by_status_and_name_without_secrets() {
    let app = App::start().await;
    let cli = app.command_line().set("DEFAULT_RATE_LIMIT", "1000000");
    let mut made = Vec::new();
    for name in ["a", "b", "a"] {
        made.push(app.tenant(name).await);
    }
    let sql = app.sql().await;
    // More than are read at once.
    let many = "insert into tenants (tenant_id, name, status, config, created_at)
                select gen_random_uuid(), 'many', 'active', '{}', now() from generate_series(1, 1100)";
    sql.execute(many, &[]).await.expect("made");
    cli.run(&["tenant", "suspend", &made[1].id]).await.done();

    let list = async |words: &[&str]| cli.run(&[&["tenant", "list", "--json"], words].concat()).await.json();

    let ids = |list: &Value| -> Vec<String> {
        list["tenants"].as_array().expect("tenants").iter().map(|tenant| text(tenant, "tenant_id")).collect()
    };
    assert_eq!(ids(&list(&[]).await).len(), 1103);
    let by_name = list(&["--name", "a"]).await;
    assert_eq!(ids(&by_name), [made[2].id.as_str(), made[0].id.as_str()]);
    assert_eq!(by_name, app.admin("GET", "/admin/tenants?name=a", None).await.expect(200).body);
    assert_eq!(ids(&list(&["--status", "suspended"]).await), [made[1].id.as_str()]);
    assert_eq!(list(&["--name", "nobody"]).await, json!({"tenants": [], "next_cursor": null}));
    let people = cli.run(&["tenant", "list", "--name", "a"]).await.done();
    let lines: Vec<&str> = people.lines().collect();
    assert_eq!(lines[0], format!("{:33}  STATUS  {:27}  NAME", "TENANT_ID", "CREATED_AT"));
    assert!(lines[1].starts_with(&made[2].id) && lines[1].contains("  active  ") && lines[1].ends_with("Z  a"));
    assert!(!people.contains("sk_") && lines.len() == 3, "{people}");
    cli.run(&["tenant", "list", "--status", "gone"]).await.failed(2, "possible values: active, suspended, deleting");
}

#[tokio::test]
async fn a_tenant_is_suspended_and_resumed_everywhere_within_a_second() {
    let (one, two) = two_nodes().await;
    let (cli, tenant) = (one.command_line().set("DEFAULT_RATE_LIMIT", "1000000"), one.tenant("t").await);
    let mut sockets = [tenant.user("alice").socket().await, tenant.through(&two).user("bob").socket().await];

    let suspended = cli.run(&["tenant", "suspend", &tenant.id, "--json"]).await.json();

    for socket in &mut sockets {
        assert_eq!(closes(socket).await, 4505);
    }
    answers(&[&one, &two], &tenant.key, 403).await;
    assert_eq!(suspended["status"], "suspended");
    let path = format!("/admin/tenants/{}", tenant.id);
    assert_eq!(one.admin("GET", &path, None).await.expect(200).body, suspended);
    let people = cli.run(&["tenant", "resume", &tenant.id]).await.done();
    answers(&[&one, &two], &tenant.key, 200).await;
    assert!(people.contains("status      active\n"), "{people}");
    let again = cli.run(&["tenant", "resume", &tenant.id, "--json"]).await.json();
    assert_eq!(again["status"], "active");
    let entry = || ["tenant.update", "-", "ok"].map(str::to_owned);
    assert_eq!(audited(&one).await, [entry(), entry(), entry()]);
}

#[tokio::test]
async fn a_tenant_is_deleted_once_somebody_has_confirmed_it() {
    let (one, two) = two_nodes().await;
    let cli = one.command_line();
    let (first, second) = (one.tenant("Acme").await, one.tenant("Beta").await);
    let mut alice = first.through(&two).user("alice").socket().await;
    let delete = ["tenant", "delete", &first.id];

    cli.run_with(&delete, "Acme\n").await.failed(2, "there is no terminal to ask at; add --yes");
    let declined = cli.run_at_terminal(&delete, "Beta\n").await;
    assert_eq!(declined.code, Some(1), "{declined:?}");
    assert!(declined.stdout.contains("Type the tenant's name (Acme)"), "{declined:?}");
    assert!(declined.stdout.contains("nothing was changed"), "{declined:?}");
    assert!(audited(&one).await.is_empty(), "nothing was tried");
    answers(&[&one, &two], &first.key, 200).await;
    let confirmed = cli.run_at_terminal(&delete, "Acme\n").await;
    assert_eq!(confirmed.code, Some(0), "{confirmed:?}");
    assert_eq!(closes(&mut alice).await, 4506);
    let deleted = cli.run(&["tenant", "delete", &second.id, "--yes", "--json"]).await.json();
    assert_eq!(deleted, json!({"tenant_id": second.id, "status": "deleting"}));

    for key in [&first.key, &second.key] {
        answers(&[&one, &two], key, 401).await;
    }
    let entry = || ["tenant.delete", "-", "ok"].map(str::to_owned);
    assert_eq!(audited(&one).await, [entry(), entry()]);
}

#[tokio::test]
async fn what_is_refused_says_why_changes_nothing_and_is_noted() {
    let app = App::start().await;
    let (cli, tenant) = (app.command_line(), app.tenant("t").await);
    let sql = app.sql().await;
    let going = app.tenant("going").await;
    let mark = "update tenants set status = 'deleting' where name = 'going'";
    // The rows of a room that somebody holds keep the tenant from being erased meanwhile.
    going.room("group", &["alice"]).await;
    sql.batch_execute("begin; select from rooms for update").await.expect("held");
    app.sql().await.execute(mark, &[]).await.expect("marked");
    let cases: [(&[&str], i32, &str, &str, &str); 8] = [
        (&["tenant", "create", ""], 2, "name: expected 1 to 200 characters", "tenant.create", "invalid_request"),
        (
            &["tenant", "create", "x", "--config", r#"{"rate_limit": 0}"#, "--json"],
            2,
            "config.rate_limit: expected a whole number from 1 to 1000000",
            "tenant.create",
            "invalid_request",
        ),
        (&["tenant", "create", "x", "--config", "{"], 2, "config: expected a JSON", "tenant.create", "invalid_request"),
        (&["tenant", "create", "x", "--config", "[]"], 2, "config: expected an", "tenant.create", "invalid_request"),
        (&["tenant", "suspend", NOBODY], 1, "Tenant not found", "tenant.update", "not_found"),
        (&["tenant", "resume", "Acme"], 1, "Tenant not found", "tenant.update", "not_found"),
        (&["tenant", "resume", &going.id], 1, "The tenant is being deleted", "tenant.update", "conflict"),
        (&["tenant", "delete", NOBODY, "--yes"], 1, "Tenant not found", "tenant.delete", "not_found"),
    ];

    for (words, code, said, ..) in &cases {
        cli.run(words).await.failed(*code, said);
    }

    let noted = cases.map(|(.., action, outcome)| [action, "-", outcome].map(str::to_owned));
    assert_eq!(audited(&app).await, noted);
    let left = cli.run(&["tenant", "list", "--status", "active", "--json"]).await.json();
    assert_eq!(left["tenants"].as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left["tenants"][0]["tenant_id"], json!(tenant.id));
}
