//! The configuration: every variable, checked at once.

mod reader;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chatapi_auth::{InvalidMasterKey, MasterKeys};
use chatapi_delivery::Options as WebhookOptions;
use chatapi_domain::Defaults;
use chatapi_storage::Connector;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use self::reader::Reader;
pub(crate) use self::reader::Variable;

/// A key shorter than this can be guessed.
const MASTER_KEY_MIN: usize = 32;

/// Where the database is.
#[derive(Debug)]
pub(crate) enum Database {
    /// A server somebody else runs.
    Url(Box<Connector>),
    /// One of our own.
    Embedded { data_dir: Option<PathBuf>, bin_dir: Option<PathBuf> },
}

/// How the log looks.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) filter: EnvFilter,
    pub(crate) json: bool,
}

/// Everything that can be set, but for the master key.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: String,
    pub(crate) database: Database,
    pub(crate) pool_size: usize,
    pub(crate) writers: usize,
    pub(crate) log: Log,
    pub(crate) defaults: Defaults,
    pub(crate) webhooks: WebhookOptions,
    pub(crate) drain: Duration,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) metrics_token: Option<SecretString>,
    /// The variables that are set.
    pub(crate) variables: Vec<Variable>,
}

/// The operator's keys.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) keys: MasterKeys,
    pub(crate) is_short: bool,
}

impl Config {
    /// Reads the environment, and the file for what is not in the environment, for a command that
    /// needs no master key.
    ///
    /// # Errors
    ///
    /// All that is wrong, a line each.
    pub(crate) fn read(env_file: Option<&Path>) -> Result<Self, Vec<String>> {
        Self::of(Reader::open(env_file)?)
    }

    /// As [`Config::read`], with the master key that a server cannot be without.
    ///
    /// # Errors
    ///
    /// All that is wrong, a line each.
    pub(crate) fn read_for_server(env_file: Option<&Path>) -> Result<(Self, Master), Vec<String>> {
        Self::for_server(Reader::open(env_file)?)
    }

    fn of(mut read: Reader) -> Result<Self, Vec<String>> {
        // One that is wrong is wrong, though nobody needs it here.
        let _ = master(&mut read);
        let config = Self::take(&mut read);
        config.filter(|_| read.errors.is_empty()).ok_or(read.errors)
    }

    fn for_server(mut read: Reader) -> Result<(Self, Master), Vec<String>> {
        let master = master(&mut read);
        if let Ok(None) = master {
            let make_one = "is required (or MASTER_API_KEY_HASH); make one with: openssl rand -hex 32";
            read.wrong("MASTER_API_KEY", make_one);
        }
        let config = Self::take(&mut read);
        config.zip(master.ok().flatten()).filter(|_| read.errors.is_empty()).ok_or(read.errors)
    }

    fn take(read: &mut Reader) -> Option<Self> {
        let database = database(read);
        let log = log(read);
        let defaults = Defaults {
            rate_limit: read.number("DEFAULT_RATE_LIMIT", 100, 1..=1_000_000),
            allowed_origins: read.list("ALLOWED_ORIGINS", "origins like https://example.com, or *", |origin| {
                Defaults::is_origin(origin).then(|| origin.to_owned())
            }),
            max_connections_per_user: read.number("WS_MAX_CONNECTIONS_PER_USER", 5, 1..=100_000),
        };
        let webhooks = WebhookOptions {
            retries: read.number("RETRY_MAX_ATTEMPTS", 5, 0..=100),
            allow_private: read.flag("WEBHOOK_ALLOW_PRIVATE"),
        };
        let config = Self {
            listen: listen(read),
            pool_size: read.number("DATABASE_POOL_SIZE", 16, 1..=1000),
            writers: read.number("DATABASE_WRITERS", 2, 1..=64),
            drain: drain(read),
            trusted_proxies: read.list("TRUSTED_PROXIES", "addresses or networks like 10.0.0.0/8", |text| {
                text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
            }),
            metrics_token: read.secret("METRICS_TOKEN").map(SecretString::from),
            database: database?,
            log: log?,
            defaults,
            webhooks,
            variables: Vec::new(),
        };
        Some(Self { variables: read.variables(), ..config })
    }
}

/// The master key, none if there is none; an error if it is wrong, which has been noted.
fn master(read: &mut Reader) -> Result<Option<Master>, ()> {
    let plain = read.secret("MASTER_API_KEY").map(SecretString::from);
    if plain.as_ref().is_some_and(|key| !is_presentable(key)) {
        read.wrong("MASTER_API_KEY", "expected visible ASCII characters: it comes in a header");
    }
    let is_short = plain.as_ref().is_some_and(is_short);
    match MasterKeys::new(plain.as_ref(), read.secret("MASTER_API_KEY_HASH")) {
        Ok(keys) => Ok(Some(Master { keys, is_short })),
        Err(InvalidMasterKey::Missing) => Ok(None),
        Err(InvalidMasterKey::Hash) => {
            read.wrong("MASTER_API_KEY_HASH", "expected an argon2id PHC string ($argon2id$…)");
            Err(())
        }
    }
}

/// Whether a master key can come in a header.
pub(crate) fn is_presentable(key: &SecretString) -> bool {
    key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a master key is so short that it can be guessed.
pub(crate) fn is_short(key: &SecretString) -> bool {
    key.expose_secret().len() < MASTER_KEY_MIN
}

fn database(read: &mut Reader) -> Option<Database> {
    let Some(url) = read.secret("DATABASE_URL") else {
        let (data_dir, bin_dir) = (read.text("DATA_DIR"), read.text("PG_BIN_DIR"));
        return Some(Database::Embedded { data_dir: data_dir.map(Into::into), bin_dir: bin_dir.map(Into::into) });
    };
    match Connector::parse(&url) {
        Ok(connector) => Some(Database::Url(Box::new(connector))),
        Err(error) => {
            read.wrong("DATABASE_URL", error);
            None
        }
    }
}

fn log(read: &mut Reader) -> Option<Log> {
    let level = read.text("LOG_LEVEL").unwrap_or_else(|| "info".to_owned());
    let filter = match level.as_str() {
        // More than info only of our own; a filter can ask for the libraries' too.
        "debug" | "trace" => format!("info,chatapi={level}"),
        other => other.to_owned(),
    };
    let known = ["off", "error", "warn", "info", "debug", "trace"].contains(&level.as_str());
    // A single unknown word would be taken for the name of a target.
    let filter = if known || level.contains('=') { EnvFilter::try_new(filter).ok() } else { None };
    if filter.is_none() {
        read.wrong("LOG_LEVEL", "expected error, warn, info, debug, trace, or a filter like info,chatapi_http=debug");
    }
    let json = match read.text("LOG_FORMAT").as_deref() {
        None => !std::io::stdout().is_terminal(),
        Some("json") => true,
        Some("text") => false,
        Some(_) => {
            read.wrong("LOG_FORMAT", "expected json or text");
            true
        }
    };
    Some(Log { filter: filter?, json })
}

fn listen(read: &mut Reader) -> String {
    let text = read.text("LISTEN_ADDR").unwrap_or_else(|| ":8080".to_owned());
    let right = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !right {
        read.wrong("LISTEN_ADDR", "expected host:port or :port");
    }
    text
}

/// `10s`, `500ms`, `2m`.
fn drain(read: &mut Reader) -> Duration {
    let text = read.text("SHUTDOWN_DRAIN_TIMEOUT").unwrap_or_else(|| "10s".to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis = unit.zip(text[..digits].parse::<u64>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    if millis.is_none() {
        read.wrong("SHUTDOWN_DRAIN_TIMEOUT", "expected a time like 10s, 500ms or 2m");
    }
    Duration::from_millis(millis.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        Config::of(reader(variables))
    }

    fn reader(variables: &[(&str, &str)]) -> Reader {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Reader::new(pairs.collect())
    }

    #[test]
    fn all_errors_are_listed_at_once_each_with_its_variable() {
        let wrong = [
            ("MASTER_API_KEY_HASH", "secret-but-no-hash"),
            ("LISTEN_ADDR", "8080"),
            ("DATABASE_URL", "postgres://u:sesame@h/d?sslmode=maybe"),
            ("DATABASE_POOL_SIZE", "0"),
            ("DATABASE_WRITERS", "many"),
            ("LOG_LEVEL", "loud"),
            ("LOG_FORMAT", "xml"),
            ("DEFAULT_RATE_LIMIT", "-1"),
            ("ALLOWED_ORIGINS", "https://a.example, b.example"),
            ("WS_MAX_CONNECTIONS_PER_USER", "0"),
            ("RETRY_MAX_ATTEMPTS", "1.5"),
            ("SHUTDOWN_DRAIN_TIMEOUT", "soon"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("WEBHOOK_ALLOW_PRIVATE", "perhaps"),
        ];

        let errors = read(&wrong).expect_err("everything is wrong");

        assert_eq!(Config::for_server(reader(&wrong)).expect_err("the same").len(), errors.len());
        for (name, _) in wrong {
            let about = errors.iter().filter(|error| error.starts_with(&format!("{name}: "))).count();
            assert_eq!(about, 1, "{name} in {errors:?}");
        }
        assert_eq!(errors.len(), wrong.len());
        assert!(!["secret-but-no-hash", "sesame"].iter().any(|secret| errors.concat().contains(secret)));
    }

    #[test]
    fn without_a_master_key_it_says_how_to_make_one() {
        let errors = Config::for_server(reader(&[])).expect_err("nothing is set");

        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("MASTER_API_KEY") && errors[0].contains("openssl rand"), "{errors:?}");
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let set = [("MASTER_API_KEY", "short"), ("DATABASE_URL", "")];
        let (config, master) = Config::for_server(reader(&set)).expect("enough");

        assert!(master.is_short);
        assert_eq!((config.listen.as_str(), config.pool_size, config.writers), (":8080", 16, 2));
        assert_eq!(config.drain, Duration::from_secs(10));
        assert_eq!(config.defaults.rate_limit, 100);
        assert!(matches!(config.database, Database::Embedded { data_dir: None, bin_dir: None }));
        assert!(!format!("{config:?} {master:?}").contains("short\""));
    }

    #[test]
    fn a_command_needs_no_master_key_and_what_is_set_is_listed_without_secrets() {
        let set = [("METRICS_TOKEN", "sesame"), ("LOG_LEVEL", "debug"), ("LISTEN_ADDR", ""), ("PATH", "/bin")];

        let config = read(&set).expect("enough");

        let shown: Vec<_> = config.variables.iter().map(|set| (set.name, set.value.as_deref())).collect();
        assert_eq!(shown, [("LOG_LEVEL", Some("debug")), ("METRICS_TOKEN", None)]);
        assert!(!format!("{config:?}").contains("sesame"));
    }
}
