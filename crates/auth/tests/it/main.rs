//! Verification on a real `PostgreSQL`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use chatapi_auth::{ApiKey, Caller, Denied, MasterKeys, Moment, Verifier};
use chatapi_domain::{Config, Defaults, Name, Tenant, TenantId, TenantStatus, Timestamp};
use chatapi_storage::{Store, measured};
use chatapi_testkit::Database;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::task::TaskTracker;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SECOND: u64 = 1_000_000_000;

/// The present, this many seconds after the test's beginning.
fn at(seconds: u64) -> Moment {
    let wall = Timestamp::from_micros(1_800_000_000_000_000).plus_seconds(i64::try_from(seconds).expect("small"));
    Moment { wall, monotonic: (seconds + 1) * SECOND }
}

struct Fixture {
    database: Database,
    store: Store,
    verifier: Verifier,
    key: SecretString,
}

async fn fixture() -> Fixture {
    let database = Database::new().await;
    let store = database.store();
    let master = MasterKeys::new(Some(&"master".into()), None).expect("a key");
    let verifier = Verifier::new(store.clone(), master, Defaults::default(), TaskTracker::new());
    let (key, stored) = verifier.new_key(None).await.expect("a key");
    let tenant = Tenant {
        tenant_id: TenantId::new(at(0).wall),
        name: Name::parse("name", "t").expect("a name"),
        status: TenantStatus::Active,
        config: Config::default(),
        created_at: at(0).wall,
    };
    store.tenants().create(&tenant, &stored).await.expect("made");
    Fixture { database, store, verifier, key: key.expose() }
}

impl Fixture {
    async fn verify(&self, seconds: u64) -> Result<Arc<Caller>, Denied> {
        self.verifier.tenant(Some(self.key.expose_secret()), HOME, at(seconds)).await
    }
}

#[tokio::test]
async fn a_known_key_costs_no_query_and_no_argon2() {
    let fixture = fixture().await;
    let (first, work) = measured(fixture.verify(0)).await;
    assert!(first.is_ok());
    assert_eq!(work.queries, 1);

    let start = Instant::now();
    for _ in 0..1000 {
        let (again, work) = measured(fixture.verify(1)).await;
        assert!(again.is_ok());
        assert_eq!(work.queries, 0);
    }

    // A thousand argon2 would take half a minute.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[tokio::test]
async fn many_at_once_with_a_new_key_are_one_look_up() {
    let fixture = fixture().await;

    let all = (0..50).map(|_| measured(fixture.verify(0)));
    let results = futures_util::future::join_all(all).await;

    assert!(results.iter().all(|(result, _)| result.is_ok()));
    assert_eq!(results.iter().map(|(_, work)| work.queries).sum::<u32>(), 1);
}

#[tokio::test]
async fn what_changes_in_the_database_is_in_force_within_half_a_minute() {
    for (change, denied) in [
        ("update tenant_keys set revoked_at = now()", "key revoked"),
        ("update tenants set status = 'suspended'", "tenant suspended"),
        ("delete from tenant_keys", "tenant not found"),
        ("update tenant_keys set secret_hash = 'another'", "tenant not found"),
    ] {
        let fixture = fixture().await;
        fixture.verify(0).await.expect("a good key");
        fixture.database.client().await.batch_execute(change).await.expect("changed");

        assert!(fixture.verify(14).await.is_ok(), "still known");
        let late = fixture.verify(31).await;

        assert_eq!(late.expect_err("switched off").to_string(), denied, "{change}");
    }
}

#[tokio::test]
async fn a_key_ends_at_its_expiry_to_the_second_though_it_is_known() {
    let fixture = fixture().await;
    let client = fixture.database.client().await;
    let expiry = "update tenant_keys set expires_at = to_timestamp(1800000010)";
    client.batch_execute(expiry).await.expect("changed");

    assert!(fixture.verify(9).await.is_ok());
    assert!(matches!(fixture.verify(10).await, Err(Denied::Invalid("key expired"))));
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_key_are_told_apart_in_the_log_alone() {
    let fixture = fixture().await;
    let known = ApiKey::parse(fixture.key.expose_secret()).expect("a key");
    let wrong = format!("sk_{}{}", known.key_id().as_str(), "x".repeat(33));
    let unknown = format!("sk_{}", "0".repeat(45));

    for (key, reason) in [(&*wrong, "wrong secret"), (&*unknown, "tenant not found"), ("x", "tenant not found")] {
        for _ in 0..2 {
            let denied = fixture.verifier.tenant(Some(key), HOME, at(0)).await.expect_err("no key");
            assert_eq!(denied.to_string(), reason);
        }
    }
    assert!(fixture.verify(0).await.is_ok(), "the right secret is not hurt");
}

#[tokio::test]
async fn an_address_that_guesses_is_stopped_before_the_database_is_asked() {
    let fixture = fixture().await;
    fixture.verify(0).await.expect("a good key");
    for n in 0..20 {
        let key = format!("sk_{n:045}");
        assert!(matches!(fixture.verifier.tenant(Some(&key), HOME, at(1)).await, Err(Denied::Invalid(_))));
    }

    let guess = format!("sk_{:045}", 99);
    let (denied, work) = measured(fixture.verifier.tenant(Some(&guess), HOME, at(1))).await;

    assert!(matches!(denied, Err(Denied::TooManyFailures { .. })));
    assert_eq!(work.queries, 0);
    assert!(matches!(fixture.verifier.operator(Some("guess"), HOME, at(1)).await, Err(Denied::TooManyFailures { .. })));
    assert!(fixture.verify(1).await.is_ok(), "a known key always passes");
    assert!(fixture.verifier.operator(Some("master"), HOME, at(1)).await.is_ok());
    let other: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
    assert!(matches!(fixture.verifier.tenant(Some(&guess), other, at(1)).await, Err(Denied::Invalid(_))));
}

#[tokio::test]
async fn a_database_that_is_away_is_no_verdict_on_a_key() {
    let fixture = fixture().await;
    fixture.store.close().await;

    assert!(matches!(fixture.verify(0).await, Err(Denied::Unavailable(_))));
}
