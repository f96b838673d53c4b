//! The users' guide, typed word for word.

use std::process::Command;

use chatapi_tests::App;

#[tokio::test]
async fn every_command_of_the_guide_does_what_it_says() {
    let key = "s08XLS75G2SHN3owC2WkYtcdddHpUPBJXCG/3cKc66M=";
    let app = App::builder().embedded().set("MASTER_API_KEY", key).set("DEFAULT_RATE_LIMIT", "1000").start().await;
    let port = app.url.rsplit_once(':').expect("a port").1.to_owned();
    // The guide says localhost:8080; curl's own settings file leads that to this server.
    let home = tempfile::tempdir().expect("a temporary folder");
    let settings = format!("connect-to = localhost:8080:127.0.0.1:{port}\nsilent\nshow-error\n");
    std::fs::write(home.path().join(".curlrc"), settings).expect("written");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guide.sh");

    let run = move || {
        Command::new("bash")
            .arg(script)
            .env("CURL_HOME", home.path())
            .env("MASTER_API_KEY", key)
            .env("DEFAULT_RATE_LIMIT", "1000")
            .output()
    };
    let output = tokio::task::spawn_blocking(run).await.expect("no panic").expect("bash runs");

    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the guide works"), "{said}");
    app.wait_for_log(r#"{"level":"info","msg":"Tenant validated","tenant_id":"tenant_"#).await;
    app.wait_for_log(r#"{"level":"error","msg":"Invalid API key","error":"tenant not found""#).await;
}
