//! An answer, read to its end.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, `null` if it is empty.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("the body arrives");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, body, text }
    }

    /// Fails unless the status is this one.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "often the status is all that matters")]
    #[expect(clippy::return_self_not_must_use, reason = "the same")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Fails unless this is an error in the form of the contract.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str, message: &str) {
        let found = (self.status, self.body["error"].as_str(), self.body["message"].as_str());
        assert_eq!(found, (status, Some(code), Some(message)), "{}", self.text);
        assert_eq!(self.body["request_id"].as_str(), Some(self.header("x-request-id")));
        assert_eq!(self.body.as_object().map(serde_json::Map::len), Some(3));
    }

    /// A header's text, empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    /// A text of the body.
    #[track_caller]
    #[must_use]
    pub fn text_of(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {}", self.text)).to_owned()
    }

    /// The items of a list in the body, by one of their fields.
    #[track_caller]
    #[must_use]
    pub fn each(&self, list: &str, field: &str) -> Vec<Value> {
        let items = self.body[list].as_array().unwrap_or_else(|| panic!("no list {list} in {}", self.text));
        items.iter().map(|item| item[field].clone()).collect()
    }

    /// Everything that may not differ between two answers that nobody should tell apart.
    #[must_use]
    pub fn comparable(&self) -> String {
        let mut body = self.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("request_id");
        }
        let volatile = ["date", "x-request-id", "x-ratelimit-reset"];
        let mut headers: Vec<String> = self
            .headers
            .iter()
            .filter(|(name, _)| !volatile.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        format!("{} {body} {headers:?}", self.status)
    }
}
