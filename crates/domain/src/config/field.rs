//! One field of a configuration, as it is read.

use secrecy::SecretString;
use serde_json::Value;

use crate::{Invalid, Timestamp};

/// A field of a request or of the database; `null` is none.
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
}

impl Field<'_> {
    fn expected(&self, what: impl std::fmt::Display) -> Invalid {
        Invalid::new(format!("config.{}", self.name), format!("expected {what}"))
    }

    pub(super) fn number<N: TryFrom<u64> + Into<u64> + Copy>(&self, min: N, max: N) -> Result<Option<N>, Invalid> {
        if self.value.is_null() {
            return Ok(None);
        }
        let range = min.into()..=max.into();
        let number = self.value.as_u64().filter(|number| range.contains(number));
        let number = number.and_then(|number| N::try_from(number).ok());
        let expected = || self.expected(format_args!("a whole number from {} to {}", range.start(), range.end()));
        number.map(Some).ok_or_else(expected)
    }

    pub(super) fn flag(&self) -> Result<Option<bool>, Invalid> {
        if self.value.is_null() {
            return Ok(None);
        }
        self.value.as_bool().map(Some).ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn text(&self, what: &str, right: impl Fn(&str) -> bool) -> Result<Option<String>, Invalid> {
        if self.value.is_null() {
            return Ok(None);
        }
        let text = self.value.as_str().filter(|text| right(text));
        text.map(|text| Some(text.to_owned())).ok_or_else(|| self.expected(what))
    }

    pub(super) fn list(&self, what: &str, right: impl Fn(&str) -> bool) -> Result<Option<Vec<String>>, Invalid> {
        if self.value.is_null() {
            return Ok(None);
        }
        let items = self.value.as_array().filter(|items| items.len() <= 100);
        let items = items.ok_or_else(|| self.expected("a list of at most 100 strings"))?;
        let item = |(at, item): (usize, &Value)| {
            let text = item.as_str().filter(|text| right(text));
            text.map(str::to_owned)
                .ok_or_else(|| Invalid::new(format!("config.{}[{at}]", self.name), format!("expected {what}")))
        };
        items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn time(&self) -> Result<Option<Timestamp>, Invalid> {
        self.text("a time", |_| true)?.map(|text| Timestamp::parse(self.name, &text)).transpose()
    }

    /// What was written by [`Config::to_stored`].
    pub(super) fn old_secrets(&self) -> Result<Vec<(SecretString, Timestamp)>, Invalid> {
        let part = |item: &Value, name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
        let one = |item: &Value| {
            let (secret, until) =
                part(item, "secret").zip(part(item, "until")).ok_or_else(|| self.expected("secrets"))?;
            Ok((secret.into(), Timestamp::parse(self.name, &until)?))
        };
        self.value.as_array().ok_or_else(|| self.expected("a list"))?.iter().map(one).collect()
    }
}
