//! `chatapi key`

use chatapi_tests::App;
use serde_json::{Value, json};

use super::{NOBODY, answers, audited, closes, text, two_nodes};

#[tokio::test]
async fn keys_are_made_and_listed_as_by_http_and_work_on_every_node_at_once() {
    let (one, two) = two_nodes().await;
    let (cli, tenant) = (one.command_line(), one.tenant("t").await);
    let ends = "2099-01-31T12:00:00Z";

    let words = ["key", "create", &tenant.id, "--name", "CI", "--expires-at", ends, "--json"];
    let made = cli.run(&words).await.json();
    let plain = cli.run(&["key", "create", &tenant.id]).await;

    assert!(plain.stderr.contains("shown this once"), "{plain:?}");
    let second = plain.stdout.lines().find_map(|line| line.strip_prefix("api_key")).expect("a key").trim().to_owned();
    for key in [&text(&made, "api_key"), &second] {
        for app in [&one, &two] {
            assert_eq!(app.send("GET", "/tenant", &[("X-API-Key", key)], None).await.status, 200);
        }
    }
    let fields: Vec<&str> = made.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = ["key_id", "name", "created_at", "last_used_at", "expires_at", "revoked_at", "api_key"];
    assert!(expected.iter().all(|field| fields.contains(field)) && fields.len() == 7, "{fields:?}");
    assert_eq!((&made["name"], &made["expires_at"]), (&json!("CI"), &json!("2099-01-31T12:00:00.000000Z")));
    let listed = cli.run(&["key", "list", &tenant.id, "--json"]).await.json();
    let ids = |list: &Value| -> Vec<String> {
        list["keys"].as_array().expect("keys").iter().map(|key| text(key, "key_id")).collect()
    };
    let by_http = one.admin("GET", &format!("/admin/tenants/{}/keys", tenant.id), None).await.expect(200).body;
    assert_eq!((ids(&listed), listed["next_cursor"].is_null()), (ids(&by_http), true));
    assert_eq!(ids(&listed).len(), 3);
    assert!(!listed.to_string().contains("sk_") && !listed.to_string().contains("argon2"), "{listed}");
    let people = cli.run(&["key", "list", &tenant.id]).await.done();
    let row = people.lines().find(|line| line.starts_with(&text(&made, "key_id"))).expect("its row");
    assert!(row.contains("2099-01-31T12:00:00.000000Z") && row.ends_with("  CI"), "{people}");
    let keys = [text(&made, "key_id"), format!("key_{}", &second[3..15])];
    assert_eq!(audited(&one).await, keys.map(|key| ["key.create".to_owned(), key, "ok".to_owned()]));
}

#[tokio::test]
async fn a_rotated_key_goes_on_for_its_grace_and_without_one_ends_everywhere_within_a_second() {
    let (one, two) = two_nodes().await;
    let (cli, tenant) = (one.command_line(), one.tenant("t").await);
    let id = |key: &str| format!("key_{}", &key[3..15]);
    // Every node knows the key.
    answers(&[&one, &two], &tenant.key, 200).await;

    let second = cli.run(&["key", "rotate", &tenant.id, &id(&tenant.key), "--json"]).await.json();
    let second = text(&second, "api_key");
    answers(&[&one, &two], &tenant.key, 200).await;
    answers(&[&one, &two], &second, 200).await;
    let mut alice = tenant.with_key(&second).through(&two).user("alice").socket().await;
    let third = cli.run(&["key", "rotate", &tenant.id, &id(&second), "--grace-seconds", "0", "--json"]).await.json();

    assert_eq!(closes(&mut alice).await, 4501);
    answers(&[&one, &two], &second, 401).await;
    let third = text(&third, "api_key");
    answers(&[&one, &two], &third, 200).await;
    let ended = cli.run(&["key", "rotate", &tenant.id, &id(&second)]).await;
    ended.failed(1, "The key is not in force any more");
    let expected = [[id(&second), "ok".into()], [id(&third), "ok".into()], [id(&second), "conflict".into()]];
    assert_eq!(audited(&one).await, expected.map(|[target, outcome]| ["key.rotate".to_owned(), target, outcome]));
}

#[tokio::test]
async fn a_key_is_revoked_everywhere_within_a_second_once_somebody_has_confirmed_it() {
    let (one, two) = two_nodes().await;
    let (cli, tenant) = (one.command_line(), one.tenant("t").await);
    let id = format!("key_{}", &tenant.key[3..15]);
    let mut sockets = [tenant.user("alice").socket().await, tenant.through(&two).user("bob").socket().await];
    let revoke = ["key", "revoke", &tenant.id, &id];

    cli.run_with(&revoke, "y\n").await.failed(2, "there is no terminal to ask at; add --yes");
    let declined = cli.run_at_terminal(&revoke, "n\n").await;
    assert_eq!(declined.code, Some(1), "{declined:?}");
    assert!(declined.stdout.contains("Revoke it? [y/N]"), "{declined:?}");
    answers(&[&one, &two], &tenant.key, 200).await;
    let revoked = cli.run(&[&revoke[..], &["--yes", "--json"]].concat()).await.json();

    for socket in &mut sockets {
        assert_eq!(closes(socket).await, 4501);
    }
    answers(&[&one, &two], &tenant.key, 401).await;
    assert_eq!(revoked["key_id"], json!(id));
    let keys = cli.run(&["key", "list", &tenant.id, "--json"]).await.json();
    assert_eq!(keys["keys"][0]["revoked_at"], revoked["revoked_at"]);
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    let again = cli.run_at_terminal(&revoke, "y\n").await;
    assert_eq!(again.code, Some(0), "{again:?}");
    let entry = || ["key.revoke".to_owned(), id.clone(), "ok".to_owned()];
    assert_eq!(audited(&one).await, [entry(), entry()]);
}

#[tokio::test]
async fn what_is_refused_says_why_and_is_noted() {
    let app = App::start().await;
    let (cli, ours, theirs) = (app.command_line(), app.tenant("ours").await, app.tenant("theirs").await);
    let (own, foreign) = (format!("key_{}", &ours.key[3..15]), format!("key_{}", &theirs.key[3..15]));
    let past = "2020-01-01T00:00:00Z";
    let cases: [(&[&str], i32, &str, [&str; 3]); 9] = [
        (&["key", "create", NOBODY], 1, "Tenant not found", ["key.create", "-", "not_found"]),
        (&["key", "create", &ours.id, "--name", ""], 2, "name: expected", ["key.create", "-", "invalid_request"]),
        (
            &["key", "create", &ours.id, "--expires-at", past],
            2,
            "expires_at: expected a time in the future",
            ["key.create", "-", "invalid_request"],
        ),
        (
            &["key", "create", &ours.id, "--expires-at", "soon", "--json"],
            2,
            "expires_at: expected a time like",
            ["key.create", "-", "invalid_request"],
        ),
        (
            &["key", "rotate", &ours.id, &own, "--grace-seconds", "-1"],
            2,
            "grace_seconds: expected 0 to 604800 seconds",
            ["key.rotate", &own, "invalid_request"],
        ),
        (&["key", "rotate", &ours.id, &foreign], 1, "Key not found", ["key.rotate", &foreign, "not_found"]),
        (&["key", "revoke", &ours.id, &foreign, "--yes"], 1, "Key not found", ["key.revoke", &foreign, "not_found"]),
        (&["key", "revoke", NOBODY, &own, "--yes"], 1, "Key not found", ["key.revoke", &own, "not_found"]),
        (&["key", "revoke", &ours.id, &ours.key, "--yes"], 1, "Key not found", ["key.revoke", "-", "not_found"]),
    ];

    for (words, code, said, _) in &cases {
        let ran = cli.run(words).await;
        ran.failed(*code, said);
        assert!(!ran.stderr.contains(&ours.key), "{ran:?}");
    }

    assert_eq!(audited(&app).await, cases.map(|(.., noted)| noted.map(str::to_owned)));
    cli.run(&["key", "list", NOBODY]).await.failed(1, "Tenant not found");
    answers(&[&app], &ours.key, 200).await;
    answers(&[&app], &theirs.key, 200).await;
}
