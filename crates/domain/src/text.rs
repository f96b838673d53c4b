//! Text from outside that has been checked: user ids, names, client message ids, JSON values.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Invalid;

/// A tenant's own name for one of its users: 1 to 128 bytes of printable ASCII without spaces,
/// neither `.` nor `..`.
///
/// `ChatAPI` keeps no user accounts: a user exists by being named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// Checks `text`; `field` names it in the error.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no user id.
    pub fn parse(field: &str, text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        let right = (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && text != "."
            && text != "..";
        if right {
            Ok(Self(text))
        } else {
            Err(Invalid::new(
                field,
                "expected a user id: 1 to 128 printable ASCII characters without spaces, not '.' or '..'",
            ))
        }
    }

    /// The text, as the tenant wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse("user_id", text)
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> Self {
        user.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a tenant, room or key: 1 to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Checks `text`; `field` names it in the error.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is no name.
    pub fn parse(field: &str, text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        let right = (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if right {
            Ok(Self(text))
        } else {
            Err(Invalid::new(field, "expected 1 to 200 characters, none of them a control character"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a client calls its message, so that sending it again makes no second one:
/// 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ClientMessageId(String);

impl ClientMessageId {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is empty, too long or not visible ASCII.
    pub fn parse(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(Invalid::new("client_message_id", "expected 1 to 128 visible ASCII characters"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A JSON value of the tenant's own (`metadata` of a room, `meta` of a message), kept to the
/// letter: key order, number format and white space come back as they were sent.
#[derive(Debug, Clone)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The most bytes a value may have.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Checks `value`; `null` is the same as absent.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is larger than [`Json::MAX_BYTES`] or holds the character U+0000.
    pub fn parse(field: &str, value: Option<Box<RawValue>>) -> Result<Option<Self>, Invalid> {
        let Some(value) = value.filter(|value| value.get() != "null") else { return Ok(None) };
        if value.get().len() > Self::MAX_BYTES {
            return Err(Invalid::new(field, "expected at most 8192 bytes of JSON"));
        }
        if escapes_nul(value.get()) {
            return Err(Invalid::new(field, "may not contain the character U+0000"));
        }
        Ok(Some(Self(value)))
    }

    /// The value a database row holds.
    ///
    /// # Errors
    ///
    /// If the text is not JSON.
    pub fn from_stored(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Whether valid JSON text holds an escaped U+0000 (it cannot hold a bare one).
fn escapes_nul(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with(b"u0000") {
            return true;
        }
        // Step over the escaped character too: it may be a backslash itself.
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_of_the_common_identity_providers_are_fine() {
        for good in ["auth0|42", "a.b+c@x.io", "a", &"x".repeat(128), "100%", "a/b", "..."] {
            assert!(UserId::parse("user_id", good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", ".", "..", "a\0", "é", "tab\t", &"x".repeat(129)] {
            assert!(UserId::parse("user_id", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_counted_in_characters() {
        assert!(Name::parse("name", "é".repeat(200)).is_ok());
        for bad in ["", "a\nb", "\0", "\u{85}", &"x".repeat(201)] {
            assert!(Name::parse("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_is_kept_to_the_letter_and_null_is_absent() {
        let value = |text: &str| Some(RawValue::from_string(text.to_owned()).expect("valid JSON"));
        let odd = r#"{"b": 1.0, "a":[ ], "b":2}"#;

        let kept = Json::parse("metadata", value(odd)).expect("small").expect("not null");

        assert_eq!(serde_json::to_string(&kept).expect("it is JSON"), odd);
        assert_eq!(Json::parse("metadata", value("null")), Ok(None));
        assert!(Json::parse("metadata", value(r#""a\u0000""#)).is_err());
        assert!(Json::parse("metadata", value(r#""a\\u0000""#)).is_ok());
        assert!(Json::parse("metadata", value(&format!("\"{}\"", "x".repeat(8190)))).is_ok());
        assert!(Json::parse("metadata", value(&format!("\"{}\"", "x".repeat(8191)))).is_err());
    }
}
