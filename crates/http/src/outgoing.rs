//! Answers as they go out; the body whole, as nearly all are, or a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use chatapi_storage::{Error, Export};
use futures_util::Stream;
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderValue};

use crate::dispatch::error_body;
use crate::error::{ApiError, Kind};
use crate::reply::{ContentType, Reply};

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// All of it is here.
    Whole(Full<Bytes>),
    /// It comes piece by piece. If it fails the connection is cut, so that nobody takes what came
    /// for the whole.
    Stream(Export),
    /// It would come piece by piece, but only its head was asked for.
    Head,
}

impl Outgoing {
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Full::new(body))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Stream(export) => Pin::new(export).poll_next(context).map_ok(Frame::data),
            Self::Head => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(_) | Self::Head => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) | Self::Head => SizeHint::default(),
        }
    }
}

pub(crate) fn respond(reply: Reply) -> Response<Outgoing> {
    let empty = reply.body.is_empty() && reply.stream.is_none();
    let mut response = Response::new(reply.stream.map_or_else(|| Outgoing::whole(reply.body), |stream| *stream));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    if !empty {
        let content_type = match reply.content_type {
            ContentType::Json => "application/json",
            ContentType::Csv => "text/csv; charset=utf-8; header=present",
            ContentType::Metrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ContentType::Lines => "application/x-ndjson",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(accept) = reply.accept {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if reply.replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

pub(crate) fn respond_error(error: &ApiError, request_id: &str) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::whole(error_body(error, request_id)));
    *response.status_mut() = error.kind().status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if error.kind() == Kind::UpgradeRequired {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if let Some(allow) = error.allow().and_then(|allow| HeaderValue::from_str(allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    response
}
