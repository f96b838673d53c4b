//! Which pages may call.

use std::time::Duration;

use chatapi_storage::Store;
use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};
use moka::future::Cache;

const EXPOSED: &str = "X-Request-Id, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, \
    X-RateLimit-Reset, Retry-After, Idempotent-Replayed";
const REQUEST_HEADERS: &str = "Authorization, Content-Type, Idempotency-Key, X-API-Key, X-Request-Id, X-User-Id";

/// What the database said of origins lately: a preflight has no credentials, so anybody may ask.
#[derive(Debug)]
pub(crate) struct KnownOrigins {
    allowed: Cache<String, bool>,
}

impl KnownOrigins {
    pub(crate) fn new() -> Self {
        Self { allowed: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(5)).build() }
    }

    /// Whether the server or any tenant lets pages of this origin call.
    pub(crate) async fn any_allows(&self, origin: &str, server: &[String], store: &Store) -> bool {
        if origin.len() > 512 || allows(server, origin) {
            return origin.len() <= 512;
        }
        let ask = async { store.tenants().any_allows_origin(origin).await };
        self.allowed.try_get_with_by_ref(origin, ask).await.unwrap_or(false)
    }
}

fn allows(origins: &[String], origin: &str) -> bool {
    origins.iter().any(|allowed| allowed == "*" || allowed == origin)
}

/// Whether pages of the origin in this header may call.
pub(crate) fn allows_header(origins: &[String], origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| allows(origins, origin))
}

/// Lets the page read the answer, if its origin is one of `allowed`.
pub(crate) fn add_headers(headers: &mut HeaderMap, origin: &HeaderValue, allowed: &[String]) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if allows_header(allowed, origin) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// Answers a preflight whose origin is allowed.
pub(crate) fn grant(headers: &mut HeaderMap, origin: &HeaderValue, methods: &str) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if let Ok(methods) = HeaderValue::from_str(methods) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}
