//! The configuration: every variable, checked at once.

use std::collections::HashMap;
use std::env;
use std::fmt::Display;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chatapi_auth::{InvalidMasterKey, MasterKeys};
use chatapi_domain::Defaults;
use chatapi_storage::Connector;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

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

/// Everything that can be set.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) master: MasterKeys,
    pub(crate) short_master_key: bool,
    pub(crate) listen: String,
    pub(crate) database: Database,
    pub(crate) pool_size: usize,
    pub(crate) writers: usize,
    pub(crate) log: Log,
    pub(crate) defaults: Defaults,
    pub(crate) drain: Duration,
    pub(crate) trusted_proxies: Vec<IpNet>,
    pub(crate) metrics_token: Option<SecretString>,
}

impl Config {
    /// Reads the environment, and the file for what is not in the environment.
    ///
    /// # Errors
    ///
    /// All that is wrong, a line each.
    pub(crate) fn read(env_file: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut variables = match env_file.map(from_file).transpose() {
            Ok(variables) => variables.unwrap_or_default(),
            Err(error) => return Err(vec![error]),
        };
        variables.extend(env::vars_os().filter_map(|(name, value)| {
            // A value that is no text is caught as a wrong value where it matters.
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }));
        Self::from_variables(variables)
    }

    fn from_variables(variables: HashMap<String, String>) -> Result<Self, Vec<String>> {
        let mut read = Reader { variables, errors: Vec::new() };
        let short_master_key = read.text("MASTER_API_KEY").is_some_and(|key| key.len() < MASTER_KEY_MIN);
        let master = master(&mut read);
        let database = database(&mut read);
        let log = log(&mut read);
        let defaults = Defaults {
            rate_limit: read.number("DEFAULT_RATE_LIMIT", 100, 1..=1_000_000),
            allowed_origins: read.list("ALLOWED_ORIGINS", "origins like https://example.com, or *", |origin| {
                Defaults::is_origin(origin).then(|| origin.to_owned())
            }),
            max_connections_per_user: read.number("WS_MAX_CONNECTIONS_PER_USER", 5, 1..=100_000),
        };
        // Checked from the first day, so that a wrong value does not wait for the part that uses it.
        let _: u32 = read.number("RETRY_MAX_ATTEMPTS", 5, 0..=100);
        read.flag("WEBHOOK_ALLOW_PRIVATE");
        let rest = Rest {
            listen: listen(&mut read),
            pool_size: read.number("DATABASE_POOL_SIZE", 16, 1..=1000),
            writers: read.number("DATABASE_WRITERS", 2, 1..=64),
            drain: drain(&mut read),
            trusted_proxies: read.list("TRUSTED_PROXIES", "addresses or networks like 10.0.0.0/8", |text| {
                text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
            }),
            metrics_token: read.text("METRICS_TOKEN").map(SecretString::from),
        };
        match (master, database, log) {
            (Some(master), Some(database), Some(log)) if read.errors.is_empty() => Ok(Self {
                master,
                short_master_key,
                listen: rest.listen,
                database,
                pool_size: rest.pool_size,
                writers: rest.writers,
                log,
                defaults,
                drain: rest.drain,
                trusted_proxies: rest.trusted_proxies,
                metrics_token: rest.metrics_token,
            }),
            _ => Err(read.errors),
        }
    }
}

struct Rest {
    listen: String,
    pool_size: usize,
    writers: usize,
    drain: Duration,
    trusted_proxies: Vec<IpNet>,
    metrics_token: Option<SecretString>,
}

fn from_file(path: &Path) -> Result<HashMap<String, String>, String> {
    let wrong = |error: &dyn Display| format!("--env-file {}: {error}", path.display());
    let entries = dotenvy::from_path_iter(path).map_err(|error| wrong(&error))?;
    // The error of a line would show the line, secret and all.
    entries.collect::<Result<_, _>>().map_err(|_| wrong(&"a line is not NAME=value"))
}

/// Reads variables and gathers what is wrong with them.
struct Reader {
    variables: HashMap<String, String>,
    errors: Vec<String>,
}

impl Reader {
    /// The value, if it is set and not empty.
    fn text(&self, name: &str) -> Option<String> {
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn wrong(&mut self, name: &str, expected: impl Display) {
        self.errors.push(format!("{name}: {expected}"));
    }

    fn number<N>(&mut self, name: &str, default: N, range: RangeInclusive<N>) -> N
    where
        N: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = self.text(name) else { return default };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.wrong(name, format_args!("expected a whole number from {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => {
                self.wrong(name, "expected true or false");
                false
            }
        }
    }

    fn list<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let text = self.text(name).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let parsed: Option<Vec<T>> = items.map(parse).collect();
        parsed.unwrap_or_else(|| {
            self.wrong(name, format_args!("expected a comma list of {expected}"));
            Vec::new()
        })
    }
}

fn master(read: &mut Reader) -> Option<MasterKeys> {
    let plain = read.text("MASTER_API_KEY").map(SecretString::from);
    if plain.as_ref().is_some_and(|key| !key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic())) {
        read.wrong("MASTER_API_KEY", "expected visible ASCII characters: it comes in a header");
    }
    match MasterKeys::new(plain.as_ref(), read.text("MASTER_API_KEY_HASH")) {
        Ok(master) => Some(master),
        Err(InvalidMasterKey::Missing) => {
            let make_one = "is required (or MASTER_API_KEY_HASH); make one with: openssl rand -hex 32";
            read.wrong("MASTER_API_KEY", make_one);
            None
        }
        Err(InvalidMasterKey::Hash) => {
            read.wrong("MASTER_API_KEY_HASH", "expected an argon2id PHC string ($argon2id$…)");
            None
        }
    }
}

fn database(read: &mut Reader) -> Option<Database> {
    let Some(url) = read.text("DATABASE_URL") else {
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
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(pairs.collect())
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

        for (name, _) in wrong {
            let about = errors.iter().filter(|error| error.starts_with(&format!("{name}: "))).count();
            assert_eq!(about, 1, "{name} in {errors:?}");
        }
        assert_eq!(errors.len(), wrong.len());
        assert!(!["secret-but-no-hash", "sesame"].iter().any(|secret| errors.concat().contains(secret)));
    }

    #[test]
    fn without_a_master_key_it_says_how_to_make_one() {
        let errors = read(&[]).expect_err("nothing is set");

        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("MASTER_API_KEY") && errors[0].contains("openssl rand"), "{errors:?}");
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = read(&[("MASTER_API_KEY", "short"), ("DATABASE_URL", "")]).expect("enough");

        assert!(config.short_master_key);
        assert_eq!((config.listen.as_str(), config.pool_size, config.writers), (":8080", 16, 2));
        assert_eq!(config.drain, Duration::from_secs(10));
        assert_eq!(config.defaults.rate_limit, 100);
        assert!(matches!(config.database, Database::Embedded { data_dir: None, bin_dir: None }));
        assert!(!format!("{config:?}").contains("short\""));
    }
}
