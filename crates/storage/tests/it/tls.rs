//! `sslmode`: what each mode accepts, against a real server with a certificate of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use chatapi_storage::{Connector, Options, Store};
use chatapi_testkit::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_postgres::NoTls;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A server on a port that takes nothing but TLS, with a certificate for `localhost`.
async fn server(issuer: &CertifiedIssuer<'static, KeyPair>) -> (Server, u16) {
    // A free port, as far as one can know.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let server = Server::start_with(false, vec!["listen_addresses=127.0.0.1".into(), format!("port={port}")]).await;
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, issuer).expect("signed");
    let data = server.folder().join("data/postgres");
    let owner = fs::metadata(&data).expect("it is there");
    for (name, pem) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        let file = data.join(name);
        fs::write(&file, pem).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("protected");
        chown(&file, Some(owner.uid()), Some(owner.gid())).expect("given");
    }
    let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
    fs::write(data.join("pg_hba.conf"), rules).expect("written");
    let socket = server.url().replace("/chatapi?", &format!(":{port}/chatapi?"));
    let (client, connection) = tokio_postgres::connect(&socket, NoTls).await.expect("connected");
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    client.batch_execute("alter system set ssl = on").await.expect("set");
    client.batch_execute("select pg_reload_conf()").await.expect("reloaded");
    while client.query_one("show ssl", &[]).await.expect("shown").get::<_, &str>(0) != "on" {
        tokio::task::yield_now().await;
    }
    (server, port)
}

#[tokio::test]
async fn each_mode_accepts_what_it_should_and_verify_full_really_verifies() {
    let (ours, other) = (authority(), authority());
    let (server, port) = server(&ours).await;
    let (good, bad) = (server.folder().join("good.pem"), server.folder().join("bad.pem"));
    fs::write(&good, ours.pem()).expect("written");
    fs::write(&bad, other.pem()).expect("written");
    let with = |roots: &std::path::Path| format!("&sslrootcert={}", roots.display());
    let cases = [
        ("localhost", "disable", String::new(), false),
        ("localhost", "prefer", String::new(), true),
        ("127.0.0.1", "require", String::new(), true),
        ("localhost", "require", with(&bad), false),
        ("127.0.0.1", "verify-ca", with(&good), true),
        ("127.0.0.1", "verify-ca", with(&bad), false),
        ("localhost", "verify-ca", String::new(), false),
        ("localhost", "verify-full", with(&good), true),
        ("127.0.0.1", "verify-full", with(&good), false),
        ("localhost", "verify-full", with(&bad), false),
        ("localhost", "verify-full", String::new(), false),
    ];
    for (host, mode, roots, accepted) in cases {
        let url = format!("postgres://chatapi@{host}:{port}/chatapi?sslmode={mode}{roots}");
        let connector = Connector::parse(&url).expect("a URL");
        let store = Store::connect(connector, Options { pool_size: 1, writers: 1 }).expect("a store");

        let result = store.migrate().await;

        assert_eq!(result.is_ok(), accepted, "{mode} to {host}{roots}: {result:?}");
    }
}
