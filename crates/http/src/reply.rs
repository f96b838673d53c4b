//! Answers.

use std::fmt::Display;

use bytes::Bytes;
use chatapi_domain::TenantId;
use chatapi_storage::{Answer, Export, Shows};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Serialize;

use crate::error::ApiError;
use crate::outgoing::Outgoing;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentType {
    Json,
    Csv,
    /// The text format of Prometheus (`OpenMetrics`).
    Metrics,
    /// JSON, a value a line.
    Lines,
}

/// A tenant that was worked at, and what of it.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) tenant_id: TenantId,
    /// The id of a key or a dead letter.
    pub(crate) target: String,
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// What is sent instead of the body, where that is not all here.
    pub(crate) stream: Option<Box<Outgoing>>,
    pub(crate) content_type: ContentType,
    /// Whether this answer was given before, to the same `Idempotency-Key`.
    pub(crate) replayed: bool,
    /// The message it shows, with which it is erased.
    pub(crate) shows: Option<Shows>,
    /// What is kept for an `Idempotency-Key` instead of the body, where that holds a secret.
    pub(crate) kept: Option<Bytes>,
    /// What it made of tenants and keys, for the audit log.
    pub(crate) subject: Option<Subject>,
    /// The connection becomes a WebSocket; what `Sec-WebSocket-Accept` says.
    pub(crate) accept: Option<HeaderValue>,
}

impl Reply {
    /// `200` and this.
    pub(crate) fn ok(view: &impl Serialize) -> Result<Self, ApiError> {
        Self::json(StatusCode::OK, view)
    }

    /// `201` and this if it was made, else `200`.
    pub(crate) fn made(created: bool, view: &impl Serialize) -> Result<Self, ApiError> {
        Self::json(if created { StatusCode::CREATED } else { StatusCode::OK }, view)
    }

    pub(crate) fn json(status: StatusCode, view: &impl Serialize) -> Result<Self, ApiError> {
        Ok(Self { status, body: to_json(view)?, ..Self::no_content() })
    }

    /// `204`.
    pub(crate) fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            body: Bytes::new(),
            stream: None,
            content_type: ContentType::Json,
            replayed: false,
            shows: None,
            kept: None,
            subject: None,
            accept: None,
        }
    }

    /// `101`: the connection becomes a WebSocket.
    pub(crate) fn switching(accept: HeaderValue) -> Self {
        Self { status: StatusCode::SWITCHING_PROTOCOLS, accept: Some(accept), ..Self::no_content() }
    }

    /// `200` and metrics in text.
    pub(crate) fn metrics(text: String) -> Self {
        Self { body: text.into(), content_type: ContentType::Metrics, status: StatusCode::OK, ..Self::no_content() }
    }

    /// `200` and JSON that was encoded before.
    pub(crate) fn page(body: Bytes) -> Self {
        Self { body, status: StatusCode::OK, ..Self::no_content() }
    }

    /// `200` and a table.
    pub(crate) fn csv(text: String) -> Self {
        Self { body: text.into(), content_type: ContentType::Csv, status: StatusCode::OK, ..Self::no_content() }
    }

    /// `200` and what comes of an export.
    pub(crate) fn stream(export: Export) -> Self {
        Self { stream: Some(Box::new(Outgoing::Stream(export))), ..Self::head_of_stream() }
    }

    /// What a `HEAD` gets where [`Reply::stream`] would be the answer.
    pub(crate) fn head_of_stream() -> Self {
        let stream = Some(Box::new(Outgoing::Head));
        Self { stream, content_type: ContentType::Lines, status: StatusCode::OK, ..Self::no_content() }
    }

    /// Says which message this shows.
    pub(crate) fn showing(mut self, shows: Shows) -> Self {
        self.shows = Some(shows);
        self
    }

    /// Says what was made, for the audit log.
    pub(crate) fn about(mut self, tenant_id: TenantId, target: impl Display) -> Self {
        self.subject = Some(Subject { tenant_id, target: target.to_string() });
        self
    }

    /// Says what is kept instead of the body.
    pub(crate) fn keeping(mut self, view: &impl Serialize) -> Result<Self, ApiError> {
        self.kept = Some(to_json(view)?);
        Ok(self)
    }

    /// An answer that was kept.
    pub(crate) fn replayed(answer: &Answer, body: Bytes) -> Self {
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        Self { status, body, replayed: true, ..Self::no_content() }
    }

    /// This answer as it is kept.
    pub(crate) fn to_answer(&self) -> Answer {
        let body = self.kept.as_ref().unwrap_or(&self.body);
        Answer { status: self.status.as_u16(), body: Some(body.to_vec()), shows: self.shows }
    }
}

fn to_json(view: &impl Serialize) -> Result<Bytes, ApiError> {
    let mut body = Vec::with_capacity(512);
    serde_json::to_writer(&mut body, view).map_err(ApiError::internal)?;
    Ok(body.into())
}
