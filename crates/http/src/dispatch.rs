//! From a request to its answer: id, route, who asks, what it may spend, the handler, the headers.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chatapi_auth::{Caller, Denied, Moment, Verifier};
use chatapi_domain::{RequestId, UserId, Verdict};
use chatapi_storage::{Work, measured};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response};
use serde::Serialize;
use tracing::Instrument;

use crate::api::Api;
use crate::call::Call;
use crate::error::{ApiError, Kind};
use crate::outgoing::{Outgoing, respond, respond_error};
use crate::reply::Reply;
use crate::route::{Access, Found, Route};
use crate::{audit, body, clock, cors, idempotency, limits, proxies, routes, socket};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request beside its answer.
#[derive(Default)]
struct Facts {
    route: Option<Route>,
    caller: Option<Arc<Caller>>,
    verdict: Option<Verdict>,
    /// The user of a ticket.
    ticket_user: Option<UserId>,
    work: Work,
}

/// Answers a request. It cannot fail: whatever happens becomes an answer.
pub(crate) async fn answer(api: Arc<Api>, peer: IpAddr, mut request: Request<Incoming>) -> Response<Outgoing> {
    let (start, now) = (Instant::now(), clock::now());
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let request_id = request_id(&parts.headers, now);
    // At level error, so that every line of the request carries its id whatever the filter.
    let span = tracing::error_span!("request", request_id = %request_id);
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let origin = parts.headers.get(header::ORIGIN).cloned();

    let mut facts = Facts::default();
    let asked = Asked { peer, now, parts, body, upgrade };
    let steps = run(&api, asked, &request_id, &mut facts);
    // The handler counts for itself, as it may run on a task of its own.
    let result = AssertUnwindSafe(steps).catch_unwind().instrument(span.clone()).await;
    let result = result.unwrap_or_else(|_| Err(ApiError::internal("a handler panicked")));

    let _entered = span.enter();
    let mut response = match result {
        Ok(Outcome::Reply(reply)) => respond(reply),
        Ok(Outcome::Preflight(response)) => *response,
        Err(error) => {
            log_error(&error);
            respond_error(&error, &request_id)
        }
    };
    add_headers(response.headers_mut(), &api, &facts, origin.as_ref(), &request_id, now);
    let (status, elapsed) = (response.status(), start.elapsed());
    api.metrics.answered(facts.route, status, elapsed);
    tracing::debug!(
        target: "chatapi::access",
        %method,
        path,
        status = status.as_u16(),
        tenant_id = facts.caller.as_ref().map(|caller| caller.tenant.tenant_id.to_string()),
        queries = facts.work.queries,
        database_us = u64::try_from(facts.work.waited.as_micros()).unwrap_or(u64::MAX),
        elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        "Answered"
    );
    response
}

enum Outcome {
    Reply(Reply),
    Preflight(Box<Response<Outgoing>>),
}

/// A request and where it comes from.
struct Asked {
    peer: IpAddr,
    now: Moment,
    parts: Parts,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
}

async fn run(api: &Arc<Api>, asked: Asked, request_id: &str, facts: &mut Facts) -> Result<Outcome, ApiError> {
    let Asked { peer, now, parts, body, upgrade } = asked;
    let (route, segments) = match api.router.find(&parts.method, parts.uri.path()) {
        Found::Route(route, segments) => (route, segments.into_iter().map(str::to_owned).collect::<Vec<_>>()),
        Found::OtherMethods(methods) if parts.method == Method::OPTIONS => {
            return Ok(Outcome::Preflight(Box::new(preflight(api, &parts.headers, &methods).await)));
        }
        Found::OtherMethods(methods) => return Err(ApiError::method_not_allowed(allow(&methods))),
        Found::Nothing => return Err(ApiError::not_found("Path")),
    };
    facts.route = Some(route);
    // Before a ticket is used up.
    let is_socket = route.spec().access == Access::Socket;
    let accept = is_socket.then(|| socket::accept_key(&parts)).transpose()?;
    let from = proxies::client_address(peer, &parts.headers, &api.options.trusted_proxies);
    let allowed = authenticate(api, from, now, route.spec().access, &parts, facts).await;
    let noted = audit::Asked::of(route, &segments, facts.caller.as_deref(), allowed.is_ok(), from, request_id)
        .map(|noted| noted.or_about(query_parameter(&parts, "tenant_id").as_deref()));
    if let Err(error) = allowed {
        if let Some(noted) = noted {
            Box::pin(noted.answered(api, Err(&error))).await;
        }
        return Err(error);
    }

    let reads_only = parts.method == Method::GET || parts.method == Method::HEAD;
    let (body, incoming) = if reads_only {
        (Bytes::new(), None)
    } else if route.reads_its_body() {
        (Bytes::new(), Some(body))
    } else {
        (body::read(&parts.headers, body, route.body_limit(), &api.tasks).await?, None)
    };
    let call = Call {
        api: api.clone(),
        caller: facts.caller.clone(),
        segments,
        head: parts.method == Method::HEAD,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        body,
        incoming,
        now,
        peer: from,
        ticket_user: facts.ticket_user.take(),
        upgrade,
        accept,
        subject: None,
    };
    let (result, work) = if reads_only {
        let noted = noted.filter(|_| !call.head);
        let (result, work) = measured(Box::pin(routes::handle(route, call))).await;
        if let Some(noted) = noted {
            Box::pin(noted.answered(api, result.as_ref())).await;
        }
        (result, work)
    } else {
        run_to_the_end(api, route, call, noted, request_id).await?
    };
    facts.work = work;
    result.map(Outcome::Reply)
}

/// Runs a request that changes something on a task of its own: a client that hangs up does not
/// stop it half way.
async fn run_to_the_end(
    api: &Arc<Api>,
    route: Route,
    call: Call,
    noted: Option<audit::Asked>,
    request_id: &str,
) -> Result<(Result<Reply, ApiError>, Work), ApiError> {
    let key = if route.is_repeatable() { idempotency::key(&call.headers)? } else { None };
    let (request_id, api_too) = (request_id.to_owned(), api.clone());
    let work = async move {
        let result = match key {
            None => Box::pin(routes::handle(route, call)).await,
            Some(key) => Box::pin(idempotency::once(key, call, &request_id, |call| routes::handle(route, call))).await,
        };
        if let Some(noted) = noted {
            Box::pin(noted.answered(&api_too, result.as_ref())).await;
        }
        result
    };
    api.tasks.spawn(measured(work).in_current_span()).await.map_err(ApiError::internal)
}

async fn authenticate(
    api: &Api,
    from: IpAddr,
    now: Moment,
    access: Access,
    parts: &Parts,
    facts: &mut Facts,
) -> Result<(), ApiError> {
    let headers = &parts.headers;
    let access = access.shown(headers);
    // A header that is no text is a key that does not fit.
    let key = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let bearer = || key("authorization").and_then(bearer);
    let denied = |denied| ApiError::denied(denied, access);
    let backends_only = || ApiError::new(Kind::Forbidden, "A user token may not call this");
    let caller = match access {
        Access::Public => return Ok(()),
        Access::Operator | Access::OperatorOrBackend => {
            if let (None, Some(token)) = (key("x-master-key"), bearer()) {
                Box::pin(api.verifier.user(token, from, now)).await.map_err(denied)?;
                return Err(backends_only());
            }
            return Box::pin(api.verifier.operator(key("x-master-key"), from, now)).await.map_err(denied);
        }
        Access::Backend | Access::Tenant | Access::Socket => match (key("x-api-key"), bearer()) {
            // Boxed, as below: the way of a known key stays small, and cheap to begin.
            (None, Some(token)) => Box::pin(api.verifier.user(token, from, now)).await,
            (None, None) if access == Access::Socket => match query_parameter(parts, "token") {
                Some(text) if Verifier::is_ticket(&text) => {
                    let redeemed = Box::pin(api.verifier.redeem(&text, from, now)).await;
                    redeemed.map(|(caller, user)| {
                        facts.ticket_user = Some(user);
                        caller
                    })
                }
                Some(text) => Box::pin(api.verifier.user(&text, from, now)).await,
                None => Err(Denied::Missing),
            },
            (key, _) => api.verifier.tenant(key, from, now).await,
        },
    };
    let caller = facts.caller.insert(caller.map_err(denied)?);
    let verdict = *facts.verdict.insert(caller.charge(api.store.feed().nodes(), now));
    if !verdict.allowed {
        return Err(ApiError::rate_limited("The tenant is over its rate limit", verdict.retry_nanos));
    }
    if access == Access::Backend && caller.credential.user().is_some() { Err(backends_only()) } else { Ok(()) }
}

/// The token in `Authorization: Bearer …`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A parameter of the query: of a handshake the `token`, because a browser cannot set headers.
fn query_parameter(parts: &Parts, wanted: &str) -> Option<String> {
    let query = parts.uri.query()?.as_bytes();
    url::form_urlencoded::parse(query).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn request_id(headers: &HeaderMap, now: Moment) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let given = given.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    given.map_or_else(|| RequestId::new(now.wall).to_string(), str::to_owned)
}

/// The methods of a path, as `Allow` lists them.
fn allow(methods: &[&str]) -> String {
    let mut all: Vec<&str> = methods.to_vec();
    if all.contains(&"GET") {
        all.push("HEAD");
    }
    all.push("OPTIONS");
    all.join(", ")
}

async fn preflight(api: &Api, headers: &HeaderMap, methods: &[&'static str]) -> Response<Outgoing> {
    let mut response = respond(Reply::no_content());
    let allow = allow(methods);
    if let Some(origin) = headers.get(header::ORIGIN)
        && let Ok(text) = origin.to_str()
        && api.origins.any_allows(text, &api.verifier.defaults().allowed_origins, &api.store).await
    {
        cors::grant(response.headers_mut(), origin, &allow);
    }
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// The body that every error has.
pub(crate) fn error_body(error: &ApiError, request_id: &str) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        error: &'a str,
        message: &'a str,
        request_id: &'a str,
    }
    let body = Body { error: error.kind().code(), message: error.message(), request_id };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

fn add_headers(
    headers: &mut HeaderMap,
    api: &Api,
    facts: &Facts,
    origin: Option<&HeaderValue>,
    request_id: &str,
    now: Moment,
) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let (Some(caller), Some(verdict)) = (&facts.caller, facts.verdict) {
        limits::add_headers(headers, caller.settings.rate, verdict, now.wall);
    }
    if let Some(origin) = origin
        && !headers.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS)
    {
        let server = || &api.verifier.defaults().allowed_origins;
        let allowed = facts.caller.as_ref().map_or_else(server, |caller| &caller.settings.allowed_origins);
        cors::add_headers(headers, origin, allowed);
    }
}

pub(crate) fn log_error(error: &ApiError) {
    match (error.kind(), error.cause()) {
        (Kind::Internal, Some(cause)) => tracing::error!(error = cause, "A request failed"),
        (_, Some(cause)) => tracing::warn!(error = cause, "A request was turned away"),
        (_, None) => {}
    }
}
