//! `chatapi hash-master-key`, `chatapi completions`, and the program itself.

use chatapi_tests::{App, CommandLine};

const KEY: &str = "a-master-key-of-more-than-32-characters";

#[tokio::test]
async fn a_hashed_master_key_opens_a_server_that_knows_only_the_hash() {
    let cli = CommandLine::bare();
    let hashed = cli.run_with(&["hash-master-key"], &format!("{KEY}\n")).await;
    assert_eq!(hashed.stderr, "");
    let hash = hashed.done();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && hash.lines().count() == 1, "{hash}");
    let app = App::builder().unset("MASTER_API_KEY").set("MASTER_API_KEY_HASH", hash.trim()).start().await;

    let status = async |key: &str| app.send("GET", "/admin/tenants", &[("X-Master-Key", key)], None).await.status;

    assert_eq!((status(KEY).await, status("another").await), (200, 401));
    let document = cli.run_with(&["hash-master-key", "--json"], &format!("{KEY}\r\n")).await.json();
    let again = document["master_api_key_hash"].as_str().expect("a hash");
    assert!(again.starts_with("$argon2id$") && again != hash.trim(), "each has a salt of its own");
}

#[tokio::test]
async fn a_master_key_that_no_header_can_carry_is_refused_and_a_short_one_is_warned_of() {
    let cli = CommandLine::bare();

    for empty in ["", "\n", "\r\n"] {
        cli.run_with(&["hash-master-key"], empty).await.failed(2, "there is no key on standard input");
    }
    for wrong in ["two words", "two\nlines", "schlüssel"] {
        let ran = cli.run_with(&["hash-master-key"], wrong).await;
        ran.failed(2, "expected one line of visible ASCII characters");
        assert!(!ran.stderr.contains(wrong), "{ran:?}");
    }
    cli.run_with(&["hash-master-key"], &"x".repeat(4097)).await.failed(2, "expected at most 4096 characters");
    let short = cli.run_with(&["hash-master-key"], "short").await;
    assert!(short.stderr.contains("fewer than 32 characters"), "{short:?}");
    assert!(short.done().starts_with("$argon2id$"));
    let typed = cli.run_at_terminal(&["hash-master-key"], &format!("{KEY}\n")).await;
    assert!(typed.stdout.contains("Master key: ") && typed.stdout.contains("$argon2id$"), "{typed:?}");
    assert!(!typed.stdout.contains(KEY), "what is typed is not shown");
}

#[tokio::test]
async fn completions_know_every_command() {
    let cli = CommandLine::bare();

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cli.run(&["completions", shell]).await.done();
        for word in
            ["serve", "migrate", "check", "suspend", "rotate", "hash-master-key", "completions", "grace-seconds"]
        {
            assert!(script.contains(word), "{word} in {shell}");
        }
    }
    cli.run(&["completions", "cmd"]).await.failed(2, "possible values: bash");
}

#[tokio::test]
async fn wrong_usage_is_exit_2_and_help_and_version_are_0() {
    let cli = CommandLine::bare();

    assert_eq!(cli.run(&["--version"]).await.done(), format!("chatapi {}\n", env!("CARGO_PKG_VERSION")));
    let help = cli.run(&["--help"]).await.done();
    for command in ["serve", "migrate", "check", "tenant", "key", "hash-master-key", "completions"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
    }
    for words in [&["frob"][..], &["tenant", "create"], &["tenant", "list", "x"], &["key", "rotate", "t"], &["key"]] {
        cli.run(words).await.failed(2, "Usage: chatapi");
    }
    cli.run(&["serve", "--json"]).await.failed(2, "unexpected argument '--json'");
    // A command that cannot ask looks at nothing first, neither configuration nor database.
    let wrong = cli.set("DATABASE_POOL_SIZE", "0");
    wrong.run(&["tenant", "delete", "x"]).await.failed(2, "add --yes");
    wrong.run(&["tenant", "delete", "x", "--yes"]).await.failed(2, "DATABASE_POOL_SIZE: ");
}
