//! Request bodies: read within bounds, parsed once, errors that name the field.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::{ApiError, Kind};

/// Within this time a body must be here.
const PATIENCE: Duration = Duration::from_secs(30);

/// How deep JSON may be nested.
const MAX_DEPTH: usize = 100;

/// What is still read of a body that is too long, so that its client comes to read our answer
/// instead of an error of its connection.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// Reads a body of at most `limit` bytes. One that is longer is not read to its end.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    limit: usize,
    tasks: &TaskTracker,
) -> Result<Bytes, ApiError> {
    let collected = match timeout(PATIENCE, collect(&mut body, limit)).await {
        Ok(collected) => collected,
        Err(_) => Err(ApiError::new(Kind::InvalidRequest, "The body did not arrive within 30 seconds")),
    };
    if collected.as_ref().is_err_and(|error| error.kind() == Kind::PayloadTooLarge) {
        linger(body, LINGER_BYTES, tasks);
    }
    let bytes = collected?;
    if !bytes.is_empty() && !is(headers, "application/json") {
        return Err(ApiError::new(Kind::UnsupportedMediaType, "The body must be application/json"));
    }
    Ok(bytes)
}

/// Collects the frames of a body; a body of one frame, the common case, is not copied.
async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(Kind::PayloadTooLarge, format!("The body may have at most {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let (mut whole, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(Kind::InvalidRequest, "The body ended too early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + more.len() + data.len() > limit {
            return Err(too_large());
        }
        if whole.is_empty() && more.is_empty() {
            whole = data;
        } else {
            more.extend_from_slice(&std::mem::take(&mut whole));
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() { whole } else { more.freeze() })
}

/// Reads a little more of a body that is refused, so that its client comes to read why.
pub(crate) fn linger(mut body: Incoming, limit: usize, tasks: &TaskTracker) {
    tasks.spawn(timeout(LINGER, async move {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > limit {
                break;
            }
        }
    }));
}

/// Whether a body is of this type, or of none.
pub(crate) fn is(headers: &HeaderMap, essence: &str) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let mut parts = value.split(';').map(str::trim);
    let right = parts.next().is_some_and(|found| found.eq_ignore_ascii_case(essence));
    right
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
                charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        })
}

/// Parses a body; a field of the wrong type is named by its path.
#[doc(hidden)]
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, (Option<String>, String)> {
    if exceeds_depth(bytes) {
        return Err((None, format!("The body is nested deeper than {MAX_DEPTH} levels")));
    }
    // serde would take an array for an object, its items for fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err((None, "The body: expected an object".to_owned()));
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        // Only now is it worth keeping track of the path.
        Err(error) => Err(explain::<T>(bytes, &error)),
    }
}

/// Parses a body into what a route takes.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::new(Kind::InvalidRequest, "The body is missing: expected a JSON object"));
    }
    parse(bytes).map_err(|(path, reason)| match path {
        Some(path) => ApiError::invalid(path, reason),
        None => ApiError::new(Kind::InvalidRequest, reason),
    })
}

/// Whether JSON is nested deeper than allowed. Needed beside the parser's own limit, which does
/// not hold for parts that it only passes over.
#[doc(hidden)]
#[must_use]
pub fn exceeds_depth(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The field's path, if the error is in a field, and what would be right.
fn explain<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> (Option<String>, String) {
    if !error.is_data() {
        return (None, format!("The body is not valid JSON: {error}"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Err(located) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return (None, format!("The body is not valid: {error}"));
    };
    let path = located.path().to_string();
    let text = located.inner().to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    if let Some(field) = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let path = if path == "." { field.to_owned() } else { format!("{path}.{field}") };
        return (Some(path), "is missing".to_owned());
    }
    let reason = match text.rsplit_once("expected ") {
        Some((_, expected)) => format!("expected {}", plain(expected)),
        None => text.to_owned(),
    };
    if path == "." { (None, format!("The body: {reason}")) } else { (Some(path), reason) }
}

/// The name of a type in the words of JSON.
fn plain(expected: &str) -> &str {
    match expected {
        "i64" | "u64" | "u32" | "i32" => "a whole number",
        "a sequence" => "an array",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Sample {
        name: String,
        members: Option<Vec<String>>,
        count: Option<i64>,
        metadata: Option<Box<RawValue>>,
    }

    #[test]
    fn an_error_names_the_field_and_what_would_be_right() {
        let cases = [
            (r#"{"name": "a", "members": ["x", 5]}"#, "members[1]: expected a string"),
            (r#"{"name": "a", "metadata": {"deep": [1]}, "members": {}}"#, "members: expected an array"),
            (r#"{"name": "a", "count": 1.5}"#, "count: expected a whole number"),
            (r#"{"name": "a", "count": 99999999999999999999}"#, "count: expected a whole number"),
            (r#"{"metadata": null}"#, "name: is missing"),
            ("[]", "The body: expected an object"),
            (r#" ["a", ["b"], 1, null]"#, "The body: expected an object"),
            ("7", "The body: expected an object"),
            (r#"{"name": "a", "name": "b"}"#, "The body: duplicate field `name`"),
        ];
        for (body, expected) in cases {
            let error = from_json::<Sample>(body.as_bytes()).expect_err(body);
            assert_eq!(error.message(), expected, "{body}");
            assert_eq!(error.kind(), Kind::InvalidRequest);
        }
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for body in [&b"{"[..], b"", b"nul", b"{\"name\": \"\xff\"}", b"{\"name\": \"\\ud800\"}", b"{}{}"] {
            let error = from_json::<Sample>(body).expect_err("no JSON");
            assert_eq!(error.kind(), Kind::InvalidRequest);
        }
    }

    #[test]
    fn nesting_is_limited_also_where_nobody_looks() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            format!(r#"{{"name": "[[[[", "metadata": {open}{close}}}"#)
        };

        assert!(from_json::<Sample>(nested(100).as_bytes()).is_ok());
        assert!(from_json::<Sample>(nested(101).as_bytes()).is_err());
        assert!(from_json::<Sample>(nested(100_000).as_bytes()).is_err());
    }
}
