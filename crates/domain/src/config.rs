//! What can be set for a tenant.
//!
//! A [`Config`] holds what was set; [`Settings`] is what is in force, with the server's
//! [`Defaults`] where nothing was set.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{Content, Invalid, Rate};

/// The events that a webhook may be sent.
pub const WEBHOOK_EVENTS: [&str; 11] = [
    "message.new",
    "message.sent",
    "message.edited",
    "message.deleted",
    "room.created",
    "room.updated",
    "room.deleted",
    "member.added",
    "member.removed",
    "presence.online",
    "presence.offline",
];

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
    webhook_url: Option<String>,
    webhook_secret: Option<SecretString>,
    webhook_events: Option<Vec<String>>,
    presence: Option<bool>,
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
}

impl Config {
    /// The fields that leave the server in no form.
    pub const SECRETS: [&str; 1] = ["webhook_secret"];

    /// Reads the `config` object of a request; unknown fields are ignored, `null` is absent.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the path of the first field that is wrong.
    pub fn parse(value: &Value) -> Result<Self, Invalid> {
        let Value::Object(fields) = value else {
            return Err(Invalid::new("config", "expected an object"));
        };
        let mut config = Self::default();
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            config.set(name, value)?;
        }
        Ok(config)
    }

    /// This configuration with the fields of `value` changed; `null` resets a field to its default.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the path of the first field that is wrong.
    pub fn patched(&self, value: &Value) -> Result<Self, Invalid> {
        let Value::Object(fields) = value else {
            return Err(Invalid::new("config", "expected an object"));
        };
        let mut kept = self.to_stored();
        let mut patched = Self::default();
        if let Value::Object(kept) = &mut kept {
            kept.retain(|name, _| !fields.contains_key(name));
            for (name, value) in kept.iter().chain(fields).filter(|(_, value)| !value.is_null()) {
                patched.set(name, value)?;
            }
        }
        Ok(patched)
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
            "rate_limit" => self.rate_limit = Some(field.number(1, 1_000_000)?),
            "rate_burst" => self.rate_burst = Some(field.number(1, 10_000_000)?),
            "max_message_bytes" => self.max_message_bytes = Some(field.number(1, Content::MAX_BYTES)?),
            "max_room_members" => self.max_room_members = Some(field.number(2, 1_000_000)?),
            "max_connections" => self.max_connections = Some(field.number(0, 10_000_000)?),
            "max_connections_per_user" => self.max_connections_per_user = Some(field.number(1, 100_000)?),
            "monthly_message_quota" => self.monthly_message_quota = Some(field.number(0, 1_000_000_000_000)?),
            "retention_days" => self.retention_days = Some(field.number(1, 36_500)?),
            "allowed_origins" => {
                self.allowed_origins = Some(field.list("an origin like https://example.com, or *", is_origin)?);
            }
            "webhook_url" => self.webhook_url = Some(field.text("an https URL", is_webhook_url)?),
            "webhook_secret" => {
                let secret = field.text("1 to 256 printable ASCII characters", is_secret)?;
                self.webhook_secret = Some(secret.into());
            }
            "webhook_events" => {
                let expected = format!("one of {}", WEBHOOK_EVENTS.join(", "));
                self.webhook_events = Some(field.list(&expected, |event| WEBHOOK_EVENTS.contains(&event))?);
            }
            "presence" => self.presence = Some(value.as_bool().ok_or_else(|| field.expected("true or false"))?),
            _ => {}
        }
        Ok(())
    }

    /// The fields that were set, as the database keeps them; the webhook secret in clear.
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
        put("webhook_url", self.webhook_url.clone().map(Value::from));
        put("webhook_secret", self.webhook_secret.as_ref().map(|secret| secret.expose_secret().into()));
        put("webhook_events", self.webhook_events.clone().map(Value::from));
        put("presence", self.presence.map(Value::from));
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
            "webhook_url": self.webhook_url,
            "webhook_secret_set": self.webhook_secret.is_some(),
            "webhook_events": self.webhook_events.clone().unwrap_or_else(|| vec!["message.new".to_owned()]),
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
        }
    }
}

struct Field<'a> {
    name: &'a str,
    value: &'a Value,
}

impl Field<'_> {
    fn expected(&self, what: impl std::fmt::Display) -> Invalid {
        Invalid::new(format!("config.{}", self.name), format!("expected {what}"))
    }

    fn number<N: TryFrom<u64> + Into<u64> + Copy>(&self, min: N, max: N) -> Result<N, Invalid> {
        let range = min.into()..=max.into();
        let number = self.value.as_u64().filter(|number| range.contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| self.expected(format_args!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn text(&self, what: &str, right: impl Fn(&str) -> bool) -> Result<String, Invalid> {
        let text = self.value.as_str().filter(|text| right(text));
        text.map(str::to_owned).ok_or_else(|| self.expected(what))
    }

    fn list(&self, what: &str, right: impl Fn(&str) -> bool) -> Result<Vec<String>, Invalid> {
        let items = self.value.as_array().filter(|items| items.len() <= 100);
        let items = items.ok_or_else(|| self.expected("a list of at most 100 strings"))?;
        let item = |(at, item): (usize, &Value)| {
            let text = item.as_str().filter(|text| right(text));
            text.map(str::to_owned)
                .ok_or_else(|| Invalid::new(format!("config.{}[{at}]", self.name), format!("expected {what}")))
        };
        items.iter().enumerate().map(item).collect()
    }
}

/// Whether `text` is what a browser sends as `Origin`, or `*`.
fn is_origin(text: &str) -> bool {
    let is_origin = || Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    text == "*" || (!text.contains('*') && is_origin())
}

fn is_webhook_url(text: &str) -> bool {
    // The parser would drop control characters; the database cannot keep U+0000.
    let plain = text.len() <= 2048 && !text.contains(char::is_control);
    plain && Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.has_host())
}

fn is_secret(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
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

    #[test]
    fn every_field_survives_the_database() {
        let all = json!({
            "rate_limit": 7, "rate_burst": 9, "max_message_bytes": 100, "max_room_members": 3,
            "max_connections": 1, "max_connections_per_user": 2, "monthly_message_quota": 4,
            "retention_days": 5, "allowed_origins": ["https://a.example", "*"],
            "webhook_url": "https://a.example/hook", "webhook_secret": "whsec_x",
            "webhook_events": ["message.sent"], "presence": false,
        });

        let stored = Config::parse(&all).expect("all fields are right").to_stored();

        assert_eq!(stored, all);
        assert_eq!(Config::parse(&json!({"rate_limit": null, "new": 1})).expect("ignored").to_stored(), json!({}));
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_resets() {
        let before = Config::parse(&json!({"rate_limit": 7, "presence": false, "webhook_secret": "s"})).expect("right");

        let after = before.patched(&json!({"rate_limit": null, "rate_burst": 3, "unknown": 1})).expect("right");

        assert_eq!(after.to_stored(), json!({"rate_burst": 3, "presence": false, "webhook_secret": "s"}));
        assert!(before.patched(&json!({"rate_burst": 0})).is_err());
        assert!(Config::is_the_operators("rate_limit") && !Config::is_the_operators("presence"));
    }

    #[test]
    fn the_secret_is_never_shown() {
        let config = Config::parse(&json!({"webhook_secret": "hush-hush"})).expect("a secret");

        let view = config.to_view(&Defaults::default());

        assert_eq!(view["webhook_secret_set"], json!(true));
        assert!(!view.to_string().contains("hush-hush") && !format!("{config:?}").contains("hush-hush"));
    }

    #[test]
    fn an_error_names_the_field_by_its_path() {
        let cases = [
            (json!([]), "config: expected an object"),
            (json!({"rate_limit": 0}), "config.rate_limit: expected a whole number from 1 to 1000000"),
            (json!({"presence": "yes"}), "config.presence: expected true or false"),
            (json!({"webhook_url": "http://a.example"}), "config.webhook_url: expected an https URL"),
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
