//! What is measured: a durable PostgreSQL, the built server, and data in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use chatapi_cluster::{Cluster, Options};
use chatapi_domain::{RoomId, TenantId, Timestamp};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Users who are members of every room of the benchmark.
pub(crate) const USERS: usize = 20;

/// The secret of every key of the benchmark, and its argon2id hash at the smallest setting: the
/// cases are about keys that are known.
const SECRET: &str = "benchmarkbenchmarkbenchmarkbenchm";
const HASH: &str = include_str!("secret_hash.txt");

/// A running system.
#[derive(Debug)]
pub(crate) struct System {
    /// Its database.
    pub(crate) cluster: Cluster,
    /// Where the server listens.
    pub(crate) address: SocketAddr,
    /// For filling tables.
    pub(crate) sql: Client,
    server: Child,
    second: Option<Child>,
    _folder: TempDir,
}

/// A database that has run for a while reuses the segments of its log; a new one makes each, 16 MiB
/// of zeros and a flush, while all wait.
const AGE: &str = "
    do $$ begin
        for segment in 1..80 loop
            perform pg_logical_emit_message(false, '', 'x');
            perform pg_switch_wal();
        end loop;
    end $$";

/// A tenant of the benchmark.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    /// Its id.
    pub(crate) id: TenantId,
    key: String,
}

impl System {
    /// Starts a database with full durability, and the server built for release on it.
    ///
    /// # Panics
    ///
    /// If anything of that fails: nothing can be measured then.
    pub(crate) async fn start() -> Self {
        // On a disk: the system's temporary folder may be memory.
        let folder = tempfile::Builder::new().prefix("chatapi-bench-").tempdir_in("/var/tmp").expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("our own folder");
        let mut options = Options::new(folder.path().join("data"));
        options.max_connections = 400;
        let cluster = Cluster::start(&options).await.expect("a PostgreSQL server");
        let (server, address) = serve(&cluster.url());
        let (sql, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.expect("a connection");
        #[expect(clippy::disallowed_methods, reason = "ends with the client")]
        tokio::spawn(connection);
        let system = Self { cluster, address, sql, server, second: None, _folder: folder };
        while system.sql.query_one("select count(*) from tenants", &[]).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        system.sql.batch_execute(AGE).await.expect("as after some time");
        system.sql.batch_execute("checkpoint").await.expect("as after some time");
        system
    }

    /// Starts a second server on the same database; where it listens.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub(crate) async fn second_node(&mut self) -> SocketAddr {
        let (server, address) = serve(&self.cluster.url());
        self.second = Some(server);
        // Both know of each other with the next sign of life.
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        address
    }

    /// Stops it again.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub(crate) fn stop_second(&mut self) {
        if let Some(mut second) = self.second.take() {
            let stopped = Command::new("kill").arg(second.id().to_string()).status();
            assert!(stopped.expect("kill runs").success());
            second.wait().expect("it ends");
        }
    }

    /// The server's resident memory, in MiB.
    ///
    /// # Panics
    ///
    /// If the server is gone.
    #[must_use]
    pub(crate) fn memory(&self) -> u64 {
        self.memory_kib() / 1024
    }

    /// The same in KiB.
    ///
    /// # Panics
    ///
    /// If the server is gone.
    #[must_use]
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    /// A tenant with this many rooms, each with [`USERS`] members.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn tenant(&self, number: u32, rooms: usize) -> Tenant {
        const TENANT: &str = "insert into tenants (tenant_id, name, created_at) values ($1, 'bench', now())";
        const KEY: &str =
            "insert into tenant_keys (tenant_id, key_id, secret_hash, created_at) values ($1, $2, $3, now())";
        const ROOMS: &str = "
            insert into rooms (tenant_id, room_id, type, member_count, created_at, updated_at, active_at, active_hour)
            select $1, lpad(to_hex(n), 32, '0')::uuid, 'group', 20, now(), now(), now(), 1 from generate_series(1, $2::int) n";
        const MEMBERS: &str = "
            insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
            select $1, 'user' || u, lpad(to_hex(n), 32, '0')::uuid, 'member', now(), now()
              from generate_series(1, $2::int) n, generate_series(0, $3::int - 1) u";
        let id = TenantId::from_uuid(Uuid::from_u128(u128::from(number) + 1));
        let key_id = format!("bench{number:07}");
        self.sql.execute(TENANT, &[id.as_uuid()]).await.expect("a tenant");
        self.sql.execute(KEY, &[id.as_uuid(), &key_id, &HASH.trim()]).await.expect("a key");
        let rooms = i32::try_from(rooms).expect("few");
        let users = i32::try_from(USERS).expect("few");
        self.sql.execute(ROOMS, &[id.as_uuid(), &rooms]).await.expect("rooms");
        self.sql.execute(MEMBERS, &[id.as_uuid(), &rooms, &users]).await.expect("members");
        Tenant { id, key: format!("sk_{key_id}{SECRET}") }
    }

    /// A tenant whose rooms have this many members each, every user in one room only: user 0 to
    /// `members` - 1 in the first, and so on.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn crowd(&self, number: u32, rooms: usize, members: usize) -> Tenant {
        const MEMBERS: &str = "
            insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
            select $1, 'user' || ((n - 1) * $3::int + u), lpad(to_hex(n), 32, '0')::uuid, 'member', now(), now()
              from generate_series(1, $2::int) n, generate_series(0, $3::int - 1) u";
        let tenant = self.tenant(number, rooms).await;
        let (rooms, members) = (i32::try_from(rooms).expect("few"), i32::try_from(members).expect("few"));
        let clear = "delete from room_members where tenant_id = $1";
        self.sql.execute(clear, &[tenant.id.as_uuid()]).await.expect("cleared");
        self.sql.execute(MEMBERS, &[tenant.id.as_uuid(), &rooms, &members]).await.expect("members");
        let count = "update rooms set member_count = $2 where tenant_id = $1";
        self.sql.execute(count, &[tenant.id.as_uuid(), &members]).await.expect("counted");
        tenant
    }

    /// A tenant with 1000 messages in each of its rooms.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn history(&self, number: u32, rooms: usize) -> Tenant {
        const MESSAGES: &str = "
            insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, created_at)
            select tenant_id, room_id, n, gen_random_uuid(), 'user' || n % 20, repeat('x', 100), now()
              from rooms, generate_series(1, 1000) n where tenant_id = $1";
        let tenant = self.tenant(number, rooms).await;
        self.sql.execute(MESSAGES, &[tenant.id.as_uuid()]).await.expect("messages");
        let count = "update rooms set last_seq = 1000 where tenant_id = $1";
        self.sql.execute(count, &[tenant.id.as_uuid()]).await.expect("counted");
        for table in ["messages", "rooms", "room_members"] {
            self.sql.batch_execute(&format!("vacuum analyze {table}")).await.expect("vacuumed");
        }
        tenant
    }

    /// Has the tenant's endpoint told of each message.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn tell(&self, tenant: &Tenant, endpoint: SocketAddr) {
        let config =
            "update tenants set config = jsonb_build_object('webhook_url', $2::text, 'webhook_secret', 'secret',
                                                                     'webhook_events', array['message.sent'])
                       where tenant_id = $1";
        let url = format!("http://{endpoint}/");
        self.sql.execute(config, &[tenant.id.as_uuid(), &url]).await.expect("set");
    }

    /// What the tenant's endpoint is still to be told.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn untold(&self, tenant: &Tenant) -> i64 {
        let count = "select (select count(*) from outbox where tenant_id = $1)
                          + (select count(*) from deliveries where tenant_id = $1)";
        self.sql.query_one(count, &[tenant.id.as_uuid()]).await.expect("counted").get(0)
    }

    /// Asks the server to delete a tenant.
    ///
    /// # Panics
    ///
    /// If it does not begin to.
    pub(crate) async fn delete(&self, tenant: &Tenant) {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let request = format!(
            "DELETE /admin/tenants/{} HTTP/1.1\r\nhost: bench\r\nx-master-key: {MASTER_KEY}\r\nconnection: close\r\n\r\n",
            tenant.id
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }

    /// Rooms and rooms being erased that a tenant still has.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn rooms_left(&self, tenant: &Tenant) -> i64 {
        const LEFT: &str = "select (select count(*) from rooms where tenant_id = $1)
                                 + (select count(*) from erased_rooms where tenant_id = $1)";
        self.sql.query_one(LEFT, &[tenant.id.as_uuid()]).await.expect("counted").get(0)
    }

    /// Fails unless the numbers of every room are without gap and double.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub(crate) async fn check(&self) {
        const WRONG: &str = "
            select count(*)
              from rooms r
              left join (select tenant_id, room_id, count(*) as n, max(seq) as last from messages group by 1, 2) m
             using (tenant_id, room_id)
             where r.last_seq <> coalesce(m.n, 0) or r.last_seq <> coalesce(m.last, 0)";
        let wrong: i64 = self.sql.query_one(WRONG, &[]).await.expect("counted").get(0);
        assert_eq!(wrong, 0, "rooms whose numbers have gaps");
    }

    /// Erases the messages, so that every case begins with the same tables.
    ///
    /// # Panics
    ///
    /// If the database fails.
    pub(crate) async fn clear(&self) {
        let clear = "truncate messages, outbox, deliveries; update rooms set last_seq = 0; update room_members set read_seq = 0, delivered_seq = 0";
        self.sql.batch_execute(clear).await.expect("cleared");
        self.sql.batch_execute("vacuum analyze rooms").await.expect("vacuumed");
        self.sql.batch_execute("vacuum analyze room_members").await.expect("vacuumed");
        self.sql.batch_execute("checkpoint").await.expect("a checkpoint");
    }

    /// Stops both.
    ///
    /// # Panics
    ///
    /// If they do not stop.
    pub(crate) async fn stop(mut self) {
        let stopped = Command::new("kill").arg(self.server.id().to_string()).status();
        assert!(stopped.expect("kill runs").success());
        self.server.wait().expect("it ends");
        self.cluster.stop().await.expect("stopped");
    }
}

const MASTER_KEY: &str = "the-master-key-of-the-benchmark-server";

fn serve(database: &str) -> (Child, SocketAddr) {
    let binary: PathBuf = std::env::current_exe().expect("our own path").with_file_name("chatapi");
    let mut server = Command::new(&binary)
        .env_clear()
        .env("DATABASE_URL", database)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("MASTER_API_KEY", MASTER_KEY)
        .env("DEFAULT_RATE_LIMIT", "1000000")
        .env("WS_MAX_CONNECTIONS_PER_USER", "100")
        .env("WEBHOOK_ALLOW_PRIVATE", "true")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server is built: cargo build --release -p chatapi");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let address = lines.by_ref().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        line["address"].as_str()?.parse().ok()
    });
    // Read on, so that the log never fills the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (server, address.expect("it listens"))
}

impl Tenant {
    /// Its key.
    #[must_use]
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// A request that costs nothing but who asks: the tenant itself. Numbered, so that there are many.
    #[must_use]
    pub(crate) fn own(&self, number: u32) -> Bytes {
        let key = &self.key;
        format!("GET /tenant HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\nx-number: {number:05}\r\n\r\n").into()
    }

    /// A request with a key that nobody has.
    #[must_use]
    pub(crate) fn wrong(number: usize) -> Bytes {
        format!("GET /tenant HTTP/1.1\r\nhost: bench\r\nx-api-key: sk_{number:045}\r\n\r\n").into()
    }

    /// A `GET`, of a user if one is named.
    #[must_use]
    pub(crate) fn get(&self, path: &str, user: Option<usize>) -> Bytes {
        let user = user.map(|user| format!("x-user-id: user{user}\r\n")).unwrap_or_default();
        format!("GET {path} HTTP/1.1\r\nhost: bench\r\nx-api-key: {}\r\n{user}\r\n", self.key).into()
    }

    /// Messages of 100 bytes into rooms 1 to `rooms`, by all users.
    #[must_use]
    pub(crate) fn messages(&self, rooms: usize) -> Vec<Bytes> {
        let body = format!(r#"{{"content":"{}"}}"#, "x".repeat(100));
        let request = |number: usize| {
            let room = room_id(number % rooms + 1);
            let user = number / rooms % USERS;
            Bytes::from(format!(
                "POST /rooms/{room}/messages HTTP/1.1\r\nhost: bench\r\nx-api-key: {}\r\nx-user-id: user{user}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                self.key,
                body.len()
            ))
        };
        (0..rooms * USERS).map(request).collect()
    }

    /// Histories of 50 from the newest, of rooms 1 to `rooms`.
    #[must_use]
    pub(crate) fn histories(&self, rooms: usize) -> Vec<Bytes> {
        let path = |room| format!("/rooms/{}/messages?order=desc&limit=50", room_id(room));
        (1..=rooms).map(|room| self.get(&path(room), Some(room % USERS))).collect()
    }
}

/// The id of a room of the benchmark.
#[must_use]
pub(crate) fn room_id(number: usize) -> RoomId {
    RoomId::from_uuid(Uuid::from_u128(number as u128))
}

/// The present.
#[must_use]
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "a program's edge")]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(0))
}
