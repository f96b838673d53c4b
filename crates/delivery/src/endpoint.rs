//! One call to an endpoint, and what came of it.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chatapi_domain::{Tenant, TenantId, Timestamp, WebhookSecrets, check_webhook_url};
use chatapi_storage::Failure;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::bounded::Bounded;
use crate::resolver::{Busy, Resolver};
use crate::signature::sign;

/// How long an endpoint may take, from the first packet to the status of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the rest of its answer is read, once it is known what it is.
const PATIENCE_FOR_BODY: Duration = Duration::from_secs(2);

/// More of an answer is not read, and the connection is not used again.
const MAX_ANSWER: usize = 64 * 1024;

/// Characters of an error that are kept.
const ERROR: usize = 300;

/// Bytes of an answer that are shown to whoever tries out the endpoint.
const SHOWN: usize = 1024;

/// Connections to one endpoint that are kept for the next calls, and for how long.
const IDLE: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Why an endpoint cannot be tried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTried {
    /// The tenant has set no `webhook_url`.
    #[error("no webhook_url is set")]
    NoEndpoint,
    /// The tenant's endpoint is being tried out already, or too many are.
    #[error("too many endpoints are being tried out")]
    Busy,
}

/// Where a tenant is told, and what signs it.
pub(crate) struct Endpoint {
    tenant_id: TenantId,
    /// As it is kept.
    pub(crate) url: String,
    /// When it was set there.
    pub(crate) set_at: Option<Timestamp>,
    secrets: WebhookSecrets,
}

impl fmt::Debug for Endpoint {
    /// Without the URL, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("tenant_id", &self.tenant_id).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The tenant's, unless it has none, or it said that it is gone.
    pub(crate) fn of(tenant: &Tenant, now: Timestamp) -> Option<Self> {
        tenant.config.webhook_endpoint().map(|url| Self::at(url, tenant, now))
    }

    /// The tenant's, also if it said that it is gone: to be tried out.
    pub(crate) fn to_try(tenant: &Tenant, now: Timestamp) -> Result<Self, NotTried> {
        tenant.config.webhook_url().map(|url| Self::at(url, tenant, now)).ok_or(NotTried::NoEndpoint)
    }

    fn at(url: &str, tenant: &Tenant, now: Timestamp) -> Self {
        let set_at = tenant.config.webhook_set_at();
        Self { tenant_id: tenant.tenant_id, url: url.to_owned(), set_at, secrets: tenant.config.webhook_secrets(now) }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// The beginning of the answer, at most a KiB.
    pub body: String,
    /// What was wrong, if anything.
    pub error: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Answer {
    /// Whether the endpoint has it now.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the endpoint wants nothing any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.error.clone().map(|error| Failure { status: self.status, error })
    }
}

/// What calls endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    client: Client<Bounded<HttpsConnector<HttpConnector<Resolver>>>, Full<Bytes>>,
    resolver: Resolver,
    allow_private: bool,
}

impl Caller {
    pub(crate) fn new(allow_private: bool) -> Self {
        let resolver = Resolver::new(allow_private);
        let mut tcp = HttpConnector::new_with_resolver(resolver.clone());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls()).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(IDLE_FOR)
            .build(Bounded(https));
        Self { client, resolver, allow_private }
    }

    /// Calls the endpoint once, unless its name cannot be asked for at the moment. Redirects are not followed.
    pub(crate) async fn call(
        &self,
        endpoint: &Endpoint,
        id: &str,
        body: Bytes,
        now: Timestamp,
    ) -> Result<Answer, Busy> {
        let start = Instant::now();
        let answered = timeout(PATIENCE, self.ask(endpoint, id, body, now)).await;
        let late = || Ok(Err(format!("no answer within {} seconds", PATIENCE.as_secs())));
        let answered = answered.unwrap_or_else(|_| late())?;
        let (status, body, error) = match answered {
            Ok(response) => {
                let status = response.status();
                // What follows, if anything does in time, changes nothing: the status says whether it has it.
                let body = read(response).await;
                let error = (!status.is_success()).then(|| format!("it answered {}", status.as_u16()));
                (Some(status.as_u16()), body, error)
            }
            Err(error) => (None, String::new(), Some(shortened(error))),
        };
        Ok(Answer { status, body, error, elapsed: start.elapsed() })
    }

    async fn ask(
        &self,
        endpoint: &Endpoint,
        id: &str,
        body: Bytes,
        now: Timestamp,
    ) -> Result<Result<Response<Incoming>, String>, Busy> {
        // Again: the rule may be another by now, and an address in the URL asks no resolver.
        let url = match check_webhook_url(&endpoint.url, self.allow_private) {
            Ok(url) => url,
            Err(invalid) => return Ok(Err(invalid.to_string())),
        };
        if let Some(name) = url.domain()
            && let Err(error) = self.resolver.find(endpoint.tenant_id, name).await?
        {
            return Ok(Err(error));
        }
        // What was checked is what is called, in the form in which it was understood.
        let request = match request(url.as_str(), &endpoint.secrets, id, body, now) {
            Ok(request) => request,
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(self.client.request(request).await.map_err(|error| with_sources(&error)))
    }
}

fn request(
    url: &str,
    secrets: &WebhookSecrets,
    id: &str,
    body: Bytes,
    now: Timestamp,
) -> hyper::http::Result<Request<Full<Bytes>>> {
    let timestamp = now.as_micros().div_euclid(1_000_000);
    let signed = sign(secrets, id, timestamp, &body);
    let optional = [("webhook-signature", signed.standard), ("x-chatapi-signature", signed.own)];
    let mut request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("ChatAPI/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp);
    for (name, value) in optional {
        if let Some(value) = value {
            request = request.header(HeaderName::from_static(name), HeaderValue::try_from(value)?);
        }
    }
    request.body(Full::new(body))
}

/// The beginning of the body; it is read on as long as it is short, so that the connection can be used
/// again.
async fn read(response: Response<Incoming>) -> String {
    let mut body = Limited::new(response.into_body(), MAX_ANSWER);
    let mut shown = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                let room = SHOWN.saturating_sub(shown.len()).min(data.len());
                shown.extend_from_slice(&data[..room]);
            }
        }
    };
    let _ = timeout(PATIENCE_FOR_BODY, reading).await;
    String::from_utf8_lossy(&shown).replace('\0', "")
}

/// The system's roots. Without any no endpoint can be trusted, and each call says so.
fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        tracing::warn!("The system has no root certificates: webhooks fail; install ca-certificates");
    }
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    builder.expect("the provider knows TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth()
}

/// The beginning of an error: a part of it may be the endpoint's own words.
fn shortened(mut error: String) -> String {
    if let Some((end, _)) = error.char_indices().nth(ERROR) {
        error.truncate(end);
        error.push('…');
    }
    error
}

/// An error with all its causes. None of them names the URL, which may hold a secret.
fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
