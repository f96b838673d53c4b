//! One request, as a handler sees it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use chatapi_auth::{Caller, Moment};
use chatapi_domain::access::Actor;
use chatapi_domain::{Settings, Timestamp, UserId};
use chatapi_storage::{Messages, TenantStore};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::upgrade::OnUpgrade;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use url::form_urlencoded;
use uuid::Uuid;

use crate::api::Api;
use crate::body;
use crate::cursor::Cursor;
use crate::error::{ApiError, Kind};

/// One request. It owns what it needs, so that it can end on a task of its own.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    /// The tenant that asks; absent on routes of the operator and of everybody.
    pub(crate) caller: Option<Arc<Caller>>,
    pub(crate) headers: HeaderMap,
    /// What stands in the `{…}` of the path, still percent-encoded.
    pub(crate) segments: Vec<String>,
    pub(crate) path: String,
    /// Whether only the head of the answer is wanted.
    pub(crate) head: bool,
    pub(crate) query: Option<String>,
    pub(crate) body: Bytes,
    /// The body of a route that reads it itself.
    pub(crate) incoming: Option<Incoming>,
    pub(crate) now: Moment,
    /// The address of whoever asks.
    pub(crate) peer: IpAddr,
    /// The user of the ticket that the request came with.
    pub(crate) ticket_user: Option<UserId>,
    /// The connection, if it may become a WebSocket.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// What answers its handshake.
    pub(crate) accept: Option<HeaderValue>,
    /// The id for whatever the request makes, if an `Idempotency-Key` has fixed one.
    pub(crate) subject: Option<Uuid>,
}

impl Call {
    pub(crate) fn now(&self) -> Timestamp {
        self.now.wall
    }

    pub(crate) fn caller(&self) -> Result<&Arc<Caller>, ApiError> {
        self.caller.as_ref().ok_or_else(|| ApiError::internal("a tenant's route without a tenant"))
    }

    pub(crate) fn settings(&self) -> Result<&Settings, ApiError> {
        self.caller().map(|caller| &caller.settings)
    }

    /// Everything that belongs to the tenant that asks; what happens there is put into its outbox.
    pub(crate) fn store(&self) -> Result<TenantStore<'_>, ApiError> {
        let caller = self.caller()?;
        Ok(self.api.store.tenant(caller.tenant.tenant_id).announcing(caller.settings.webhook_events))
    }

    /// The messages of the tenant that asks, counted, and within its quota.
    pub(crate) fn messages(&self) -> Result<Messages<'_>, ApiError> {
        let caller = self.caller()?;
        Ok(self.store()?.messages().metered(caller.meter(), caller.settings.monthly_message_quota))
    }

    /// The user in whose name the backend asks.
    pub(crate) fn user(&self) -> Result<UserId, ApiError> {
        match self.actor()? {
            Actor::User(user) => Ok(user),
            Actor::Tenant => Err(ApiError::new(Kind::InvalidRequest, "Missing X-User-Id header")),
        }
    }

    /// The user who asks, or in whose name the backend asks; else the tenant itself.
    pub(crate) fn actor(&self) -> Result<Actor, ApiError> {
        let named = self.headers.get("x-user-id").map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            UserId::parse("X-User-Id", text)
        });
        let named = named.transpose()?;
        let own = self.token_user().or(self.ticket_user.as_ref());
        if let (Some(user), Some(caller)) = (own.or(named.as_ref()), &self.caller) {
            caller.meter().active(user);
        }
        match (own, named) {
            (Some(own), Some(named)) if *own != named => {
                Err(ApiError::new(Kind::Forbidden, "X-User-Id is not the user of the token"))
            }
            (Some(own), _) => Ok(Actor::User(own.clone())),
            (None, Some(named)) => Ok(Actor::User(named)),
            (None, None) => Ok(Actor::Tenant),
        }
    }

    /// The user whose token it is that asks; absent if the backend asks.
    pub(crate) fn token_user(&self) -> Option<&UserId> {
        self.caller.as_deref().and_then(|caller| caller.credential.user())
    }

    /// The id at this place of the path. One that does not parse is no different from one that
    /// does not exist.
    pub(crate) fn id<T: FromStr>(&self, place: usize, what: &'static str) -> Result<T, ApiError> {
        let text = self.segment(place).ok_or_else(|| ApiError::not_found(what))?;
        text.parse().map_err(|_| ApiError::not_found(what))
    }

    /// The user at this place of the path.
    pub(crate) fn member(&self, place: usize) -> Result<UserId, ApiError> {
        let text = self.segment(place).ok_or_else(|| ApiError::not_found("Member"))?;
        UserId::parse("user_id", text).map_err(|_| ApiError::not_found("Member"))
    }

    fn segment(&self, place: usize) -> Option<Cow<'_, str>> {
        percent_decode_str(self.segments.get(place)?).decode_utf8().ok()
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::from_json(&self.body)
    }

    /// The body as JSON, where it may be missing.
    pub(crate) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// A parameter of the query, if it is there.
    pub(crate) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let query = self.query.as_deref()?.as_bytes();
        form_urlencoded::parse(query).find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// A parameter of the query as it stands there, still percent-encoded.
    pub(crate) fn raw_parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.as_deref()?.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
    }

    /// A parameter that is a whole number of at least 0.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        // `parse` would take a plus sign too.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.map(Some).ok_or_else(|| ApiError::invalid(name, "expected a whole number of at least 0"))
    }

    /// How many items a page is to have.
    pub(crate) fn limit(&self) -> Result<u32, ApiError> {
        let wrong = || ApiError::invalid("limit", "expected a whole number from 1 to 100");
        let limit = self.number("limit").map_err(|_| wrong())?.unwrap_or(50);
        u32::try_from(limit).ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(wrong)
    }

    /// Where the page before ended.
    pub(crate) fn cursor<C: Cursor>(&self) -> Result<Option<C>, ApiError> {
        let Some(text) = self.parameter("cursor") else { return Ok(None) };
        let cursor = C::decode(&text).map(Some);
        cursor.ok_or_else(|| ApiError::invalid("cursor", "expected the next_cursor of a page of this list"))
    }
}

/// A page of a list that was asked for one item more than it shows: that item says that there
/// is a next page, and the last one shown where it begins.
pub(crate) fn paged<T, C: Cursor>(items: &mut Vec<T>, limit: u32, place: impl Fn(&T) -> C) -> Option<String> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    items.last().filter(|_| more).map(|last| place(last).encode())
}
