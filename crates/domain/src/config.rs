//! What can be set for a tenant.
//!
//! A [`Config`] holds what was set; [`Settings`] is what is in force, with the server's
//! [`Defaults`] where nothing was set.

mod field;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use self::field::Field;
use crate::webhook::{check_webhook_url, secret_bytes};
use crate::{Content, Invalid, Rate, Timestamp, WebhookEvent, WebhookEvents};

/// How long a webhook secret that was replaced goes on signing beside the new one, in seconds.
const OLD_SECRET_SIGNS: i64 = 86_400;

/// Replaced secrets that are kept: more changes in a day push out the oldest.
const OLD_SECRETS: usize = 5;

/// What the operator or the tenant set; an absent field follows the default.
#[derive(Debug, Clone, Default)]
pub struct Config {
    rate_limit: Option<u32>,
    rate_burst: Option<u32>,
    max_message_bytes: Option<u32>,
    max_room_members: Option<u32>,
    max_connections: Option<u32>,
    max_connections_per_user: Option<u32>,
    monthly_message_quota: Option<u64>,
    retention_days: Option<u32>,
    allowed_origins: Option<Vec<String>>,
    /// May hold a secret in its path or query, so it is not for a `Debug`.
    webhook_url: Option<SecretString>,
    webhook_secret: Option<SecretString>,
    webhook_events: Option<Vec<String>>,
    presence: Option<bool>,
    /// Since when the endpoint is told nothing, because it said that it is gone. Nobody sets it.
    webhook_disabled_at: Option<Timestamp>,
    /// When the endpoint was set last, once it was changed: what it said before does not count.
    webhook_set_at: Option<Timestamp>,
    /// Secrets that were replaced, oldest first, and until when they sign.
    old_webhook_secrets: Vec<(SecretString, Timestamp)>,
}

/// What the server takes where a tenant's [`Config`] says nothing.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Requests a second.
    pub rate_limit: u32,
    /// Origins whose pages may call.
    pub allowed_origins: Vec<String>,
    /// WebSocket connections one user may have at once.
    pub max_connections_per_user: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { rate_limit: 100, allowed_origins: Vec::new(), max_connections_per_user: 5 }
    }
}

/// What is in force for a tenant.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its token bucket.
    pub rate: Rate,
    /// The longest content, in bytes.
    pub max_message_bytes: u32,
    /// The most members a room may have.
    pub max_room_members: u32,
    /// Origins whose pages may call; `*` is all.
    pub allowed_origins: Vec<String>,
    /// WebSocket connections the tenant may have at once.
    pub max_connections: u32,
    /// WebSocket connections one of its users may have at once.
    pub max_connections_per_user: u32,
    /// Whether it is told, and shown, who is online.
    pub presence: bool,
    /// Messages it may send in a calendar month (UTC), if there is a limit.
    pub monthly_message_quota: Option<u64>,
    /// What its endpoint is told of; nothing where there is none.
    pub webhook_events: WebhookEvents,
}

impl Config {
    /// The fields that leave the server in no form.
    pub const SECRETS: [&str; 3] = ["webhook_secret", "webhook_old_secrets", "webhook_set_at"];

    /// Reads the `config` object of a request; unknown fields are ignored, `null` is absent.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the path of the first field that is wrong.
    pub fn parse(value: &Value) -> Result<Self, Invalid> {
        let mut config = Self::default();
        for (name, value) in fields(value)? {
            config.set(name, value)?;
        }
        Ok(config)
    }

    /// Reads what [`Config::to_stored`] wrote, by this version or an earlier one.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the path of the first field that is wrong.
    pub fn from_stored(value: &Value) -> Result<Self, Invalid> {
        let mut config = Self::default();
        for (name, value) in fields(value)? {
            let field = Field { name, value };
            match name.as_str() {
                // What was right once is: a stricter rule must not make a tenant unreadable.
                "webhook_url" => {
                    let kept = |text: &str| text.len() <= 2048 && !text.contains(char::is_control);
                    config.webhook_url = field.text("a URL", kept)?.map(Into::into);
                }
                "webhook_secret" => config.webhook_secret = field.text("a string", |_| true)?.map(Into::into),
                "webhook_disabled_at" => config.webhook_disabled_at = field.time()?,
                "webhook_set_at" => config.webhook_set_at = field.time()?,
                "webhook_old_secrets" => config.old_webhook_secrets = field.old_secrets()?,
                _ => config.set(name, value)?,
            }
        }
        Ok(config)
    }

    /// This configuration with the fields of `value` changed; `null` resets a field to its default.
    /// A secret that is replaced goes on signing for a day; an endpoint that is set, be it the same,
    /// is enabled.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the path of the first field that is wrong.
    pub fn patched(&self, value: &Value, now: Timestamp) -> Result<Self, Invalid> {
        let mut patched = self.clone();
        for (name, value) in fields(value)? {
            patched.set(name, value)?;
            if name == "webhook_url" {
                (patched.webhook_disabled_at, patched.webhook_set_at) = (None, Some(now));
            }
        }
        let (old, present) = (&mut patched.old_webhook_secrets, patched.webhook_secret.as_ref());
        old.retain(|(_, until)| *until > now);
        if let Some(replaced) = &self.webhook_secret
            && present.map(ExposeSecret::expose_secret) != Some(replaced.expose_secret())
        {
            old.push((replaced.clone(), now.plus_seconds(OLD_SECRET_SIGNS)));
            old.drain(..old.len().saturating_sub(OLD_SECRETS));
        }
        Ok(patched)
    }

    /// Where the tenant is told what happens, if anywhere; absent too while the endpoint is disabled.
    #[must_use]
    pub fn webhook_endpoint(&self) -> Option<&str> {
        self.webhook_url().filter(|_| self.webhook_disabled_at.is_none())
    }

    /// Where the tenant wants to be told, though it may be disabled.
    #[must_use]
    pub fn webhook_url(&self) -> Option<&str> {
        self.webhook_url.as_ref().map(ExposeSecret::expose_secret)
    }

    /// When the endpoint was set, if it was ever changed.
    #[must_use]
    pub const fn webhook_set_at(&self) -> Option<Timestamp> {
        self.webhook_set_at
    }

    /// What signs what the endpoint is told, and what signed it until lately and goes on for a while.
    #[must_use]
    pub fn webhook_secrets(&self, now: Timestamp) -> WebhookSecrets {
        let old = self.old_webhook_secrets.iter().filter(|(_, until)| *until > now);
        WebhookSecrets { current: self.webhook_secret.clone(), old: old.map(|(secret, _)| secret.clone()).collect() }
    }

    /// What the endpoint is told of.
    fn webhook_events(&self) -> WebhookEvents {
        if self.webhook_endpoint().is_none() {
            return WebhookEvents::NONE;
        }
        match &self.webhook_events {
            Some(words) => words.iter().filter_map(|word| WebhookEvent::from_word(word)).collect(),
            None => [WebhookEvent::MessageNew].into_iter().collect(),
        }
    }

    /// Whether only the operator may change the field; a name that is no field's is ignored anyway.
    #[must_use]
    pub fn is_the_operators(name: &str) -> bool {
        const FIELDS: [&str; 6] = [
            "rate_limit",
            "rate_burst",
            "max_room_members",
            "max_connections",
            "max_connections_per_user",
            "monthly_message_quota",
        ];
        FIELDS.contains(&name)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Invalid> {
        let field = Field { name, value };
        match name {
            "rate_limit" => self.rate_limit = field.number(1, 1_000_000)?,
            "rate_burst" => self.rate_burst = field.number(1, 10_000_000)?,
            "max_message_bytes" => self.max_message_bytes = field.number(1, Content::MAX_BYTES)?,
            "max_room_members" => self.max_room_members = field.number(2, 1_000_000)?,
            "max_connections" => self.max_connections = field.number(0, 10_000_000)?,
            "max_connections_per_user" => self.max_connections_per_user = field.number(1, 100_000)?,
            "monthly_message_quota" => self.monthly_message_quota = field.number(0, 1_000_000_000_000)?,
            "retention_days" => self.retention_days = field.number(1, 36_500)?,
            "allowed_origins" => {
                self.allowed_origins = field.list("an origin like https://example.com, or *", is_origin)?;
            }
            // Whether it must be public is the server's to say: [`check_webhook_url`].
            "webhook_url" => {
                let url = field.text("an https URL", |text| check_webhook_url(text, true).is_ok())?;
                self.webhook_url = url.map(Into::into);
            }
            "webhook_secret" => {
                let what = "1 to 256 printable ASCII characters; base64 if it begins with whsec_";
                self.webhook_secret = field.text(what, is_secret)?.map(Into::into);
            }
            "webhook_events" => {
                let expected = format!("one of {}", WebhookEvent::ALL.map(WebhookEvent::as_str).join(", "));
                self.webhook_events = field.list(&expected, |word| WebhookEvent::from_word(word).is_some())?;
            }
            "presence" => self.presence = field.flag()?,
            _ => {}
        }
        Ok(())
    }

    /// The fields that were set, as the database keeps them; the webhook's secrets in clear.
    #[must_use]
    pub fn to_stored(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("rate_limit", self.rate_limit.map(Value::from));
        put("rate_burst", self.rate_burst.map(Value::from));
        put("max_message_bytes", self.max_message_bytes.map(Value::from));
        put("max_room_members", self.max_room_members.map(Value::from));
        put("max_connections", self.max_connections.map(Value::from));
        put("max_connections_per_user", self.max_connections_per_user.map(Value::from));
        put("monthly_message_quota", self.monthly_message_quota.map(Value::from));
        put("retention_days", self.retention_days.map(Value::from));
        put("allowed_origins", self.allowed_origins.clone().map(Value::from));
        put("webhook_url", self.webhook_url().map(Value::from));
        put("webhook_secret", self.webhook_secret.as_ref().map(|secret| secret.expose_secret().into()));
        put("webhook_events", self.webhook_events.clone().map(Value::from));
        put("presence", self.presence.map(Value::from));
        put("webhook_disabled_at", self.webhook_disabled_at.map(|at| at.to_string().into()));
        put("webhook_set_at", self.webhook_set_at.map(|at| at.to_string().into()));
        let old = |(secret, until): &(SecretString, Timestamp)| json!({ "secret": secret.expose_secret(), "until": until.to_string() });
        let old: Vec<Value> = self.old_webhook_secrets.iter().map(old).collect();
        put("webhook_old_secrets", (!old.is_empty()).then(|| old.into()));
        Value::Object(fields)
    }

    /// What is in force, as the API shows it: every field, and of the secret only whether it is set.
    #[must_use]
    pub fn to_view(&self, defaults: &Defaults) -> Value {
        let settings = self.settings(defaults);
        json!({
            "rate_limit": self.rate_limit.unwrap_or(defaults.rate_limit),
            "rate_burst": settings.rate.burst(),
            "max_message_bytes": settings.max_message_bytes,
            "max_room_members": settings.max_room_members,
            "max_connections": settings.max_connections,
            "max_connections_per_user": settings.max_connections_per_user,
            "monthly_message_quota": self.monthly_message_quota,
            "retention_days": self.retention_days,
            "allowed_origins": settings.allowed_origins,
            "webhook_url": self.webhook_url(),
            "webhook_secret_set": self.webhook_secret.is_some(),
            "webhook_events": self.webhook_events.clone().unwrap_or_else(|| vec!["message.new".to_owned()]),
            "webhook_disabled_at": self.webhook_disabled_at,
            "presence": settings.presence,
        })
    }

    /// What is in force.
    #[must_use]
    pub fn settings(&self, defaults: &Defaults) -> Settings {
        let rate_limit = self.rate_limit.unwrap_or(defaults.rate_limit);
        Settings {
            rate: Rate::new(rate_limit, self.rate_burst.unwrap_or(rate_limit)),
            max_message_bytes: self.max_message_bytes.unwrap_or(16_384),
            max_room_members: self.max_room_members.unwrap_or(10_000),
            allowed_origins: self.allowed_origins.clone().unwrap_or_else(|| defaults.allowed_origins.clone()),
            max_connections: self.max_connections.unwrap_or(10_000),
            max_connections_per_user: self.max_connections_per_user.unwrap_or(defaults.max_connections_per_user),
            presence: self.presence.unwrap_or(true),
            monthly_message_quota: self.monthly_message_quota,
            webhook_events: self.webhook_events(),
        }
    }
}

/// What signs what a tenant's endpoint is told.
#[derive(Debug, Clone, Default)]
pub struct WebhookSecrets {
    /// The secret, if one is set.
    pub current: Option<SecretString>,
    /// Those that were replaced less than a day ago.
    pub old: Vec<SecretString>,
}

fn fields(value: &Value) -> Result<&Map<String, Value>, Invalid> {
    value.as_object().ok_or_else(|| Invalid::new("config", "expected an object"))
}

/// Whether `text` is what a browser sends as `Origin`, or `*`.
fn is_origin(text: &str) -> bool {
    let is_origin = || Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    text == "*" || (!text.contains('*') && is_origin())
}

fn is_secret(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) && secret_bytes(text).is_some()
}

impl Defaults {
    /// Checks an origin for [`Defaults::allowed_origins`].
    #[must_use]
    pub fn is_origin(text: &str) -> bool {
        is_origin(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn every_field_survives_the_database() {
        let all = json!({
            "rate_limit": 7, "rate_burst": 9, "max_message_bytes": 100, "max_room_members": 3,
            "max_connections": 1, "max_connections_per_user": 2, "monthly_message_quota": 4,
            "retention_days": 5, "allowed_origins": ["https://a.example", "*"],
            "webhook_url": "https://a.example/hook", "webhook_secret": "whsec_c2VjcmV0",
            "webhook_events": ["message.sent"], "presence": false,
        });

        let stored = Config::parse(&all).expect("all fields are right").to_stored();

        assert_eq!(stored, all);
        assert_eq!(Config::from_stored(&stored).expect("our own").to_stored(), all);
        assert_eq!(Config::parse(&json!({"rate_limit": null, "new": 1})).expect("ignored").to_stored(), json!({}));
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_resets() {
        let before = Config::parse(&json!({"rate_limit": 7, "presence": false, "webhook_secret": "s"})).expect("right");

        let after = before.patched(&json!({"rate_limit": null, "rate_burst": 3, "unknown": 1}), NOW).expect("right");

        assert_eq!(after.to_stored(), json!({"rate_burst": 3, "presence": false, "webhook_secret": "s"}));
        assert!(before.patched(&json!({"rate_burst": 0}), NOW).is_err());
        assert!(Config::is_the_operators("rate_limit") && !Config::is_the_operators("presence"));
    }

    #[test]
    fn the_secret_is_never_shown() {
        let url = "https://a.example/?key=hush-hush";
        let config = Config::parse(&json!({"webhook_secret": "hush-hush", "webhook_url": url})).expect("a secret");

        let view = config.to_view(&Defaults::default());

        assert_eq!(view["webhook_secret_set"], json!(true));
        assert_eq!(view["webhook_url"], url);
        assert!(view.get("webhook_secret").is_none() && !format!("{config:?}").contains("hush-hush"));
    }

    #[test]
    fn a_replaced_secret_signs_for_a_day() {
        let secrets = |config: &Config, at: i64| {
            let WebhookSecrets { current, old } = config.webhook_secrets(NOW.plus_seconds(at));
            let text = |secret: SecretString| secret.expose_secret().to_owned();
            (current.map(text), old.into_iter().map(text).collect::<Vec<_>>())
        };
        let first = Config::parse(&json!({"webhook_secret": "one"})).expect("right");

        let second = first.patched(&json!({"webhook_secret": "two"}), NOW).expect("right");
        let again = second.patched(&json!({"webhook_secret": "two"}), NOW.plus_seconds(5)).expect("right");
        let third = again.patched(&json!({"webhook_secret": null}), NOW.plus_seconds(9)).expect("right");
        let kept = Config::from_stored(&third.to_stored()).expect("our own");

        assert_eq!(secrets(&second, 86_399), (Some("two".to_owned()), vec!["one".to_owned()]));
        assert_eq!(secrets(&second, 86_400), (Some("two".to_owned()), vec![]));
        assert_eq!(secrets(&again, 6).1, ["one"], "the same again is no change");
        assert_eq!(secrets(&kept, 9), (None, vec!["one".to_owned(), "two".to_owned()]));
        assert!(
            !format!("{kept:?}").contains("\"two\"") && !kept.to_view(&Defaults::default()).to_string().contains("two")
        );
    }

    #[test]
    fn a_disabled_endpoint_is_told_nothing_until_it_is_set_again() {
        let wanted = json!({"webhook_url": "https://a.example/", "webhook_events": ["room.created"]});
        let config = Config::parse(&wanted).expect("right");
        let mut stored = config.to_stored();
        stored["webhook_disabled_at"] = json!("2026-01-31T12:00:00.000000Z");
        let disabled = Config::from_stored(&stored).expect("our own");

        let kept = disabled.patched(&json!({"webhook_disabled_at": null, "rate_limit": 5}), NOW).expect("right");
        let set = disabled.patched(&json!({"webhook_url": "https://a.example/"}), NOW).expect("right");

        let events = |config: &Config| config.settings(&Defaults::default()).webhook_events;
        assert!(
            events(&config).contains(WebhookEvent::RoomCreated) && !events(&config).contains(WebhookEvent::MessageNew)
        );
        assert_eq!(events(&disabled), WebhookEvents::NONE);
        assert_eq!(events(&kept), WebhookEvents::NONE, "nobody sets that");
        assert_eq!(kept.to_view(&Defaults::default())["webhook_disabled_at"], stored["webhook_disabled_at"]);
        assert_eq!(events(&set), events(&config));
    }

    #[test]
    fn an_error_names_the_field_by_its_path() {
        let cases = [
            (json!([]), "config: expected an object"),
            (json!({"rate_limit": 0}), "config.rate_limit: expected a whole number from 1 to 1000000"),
            (json!({"presence": "yes"}), "config.presence: expected true or false"),
            (json!({"webhook_url": "ftp://a.example"}), "config.webhook_url: expected an https URL"),
            (
                json!({"webhook_secret": "whsec_?"}),
                "config.webhook_secret: expected 1 to 256 printable ASCII characters; base64 if it begins with whsec_",
            ),
            (
                json!({"webhook_events": ["message.sent", "message.read"]}),
                "config.webhook_events[1]: expected one of message.new, message.sent, message.edited, message.deleted, \
                 room.created, room.updated, room.deleted, member.added, member.removed, presence.online, presence.offline",
            ),
            (json!({"webhook_url": "https://a.example/\0"}), "config.webhook_url: expected an https URL"),
            (
                json!({"allowed_origins": ["*", "https://*.example"]}),
                "config.allowed_origins[1]: expected an origin like https://example.com, or *",
            ),
            (
                json!({"allowed_origins": ["https://a.example/path"]}),
                "config.allowed_origins[0]: expected an origin like https://example.com, or *",
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(Config::parse(&config).expect_err("it is wrong").to_string(), expected);
        }
    }
}
