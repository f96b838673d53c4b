//! What a tenant may still spend, as headers.

use std::fmt::Write;

use chatapi_domain::{Rate, Timestamp, Verdict};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
const OLD_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const OLD_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const OLD_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Adds the two fields of the IETF draft, and the three that old clients know.
pub(crate) fn add_headers(headers: &mut HeaderMap, rate: Rate, verdict: Verdict, now: Timestamp) {
    let full_in = verdict.full_nanos.div_ceil(1_000_000_000);
    let full_at = now.as_micros().div_euclid(1_000_000) + i64::try_from(full_in).unwrap_or(0);
    let mut text = String::with_capacity(40);
    let mut put = |name: HeaderName, value: std::fmt::Arguments<'_>| {
        text.clear();
        let written = text.write_fmt(value);
        if let (Ok(()), Ok(value)) = (written, HeaderValue::from_str(&text)) {
            headers.insert(name, value);
        }
    };
    put(POLICY, format_args!("\"tenant\";q={};w={}", rate.burst(), rate.window_seconds()));
    put(STATE, format_args!("\"tenant\";r={};t={full_in}", verdict.remaining));
    put(OLD_LIMIT, format_args!("{}", rate.burst()));
    put(OLD_REMAINING, format_args!("{}", verdict.remaining));
    put(OLD_RESET, format_args!("{full_at}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_those_of_the_contract() {
        let mut headers = HeaderMap::new();
        let verdict = Verdict { allowed: true, remaining: 57, retry_nanos: 0, full_nanos: 430_000_000 };

        add_headers(&mut headers, Rate::new(100, 100), verdict, Timestamp::from_micros(1_700_000_000_900_000));

        assert_eq!(headers["RateLimit-Policy"], "\"tenant\";q=100;w=1");
        assert_eq!(headers["RateLimit"], "\"tenant\";r=57;t=1");
        assert_eq!(headers["X-RateLimit-Limit"], "100");
        assert_eq!(headers["X-RateLimit-Remaining"], "57");
        assert_eq!(headers["X-RateLimit-Reset"], "1700000001");
    }
}
