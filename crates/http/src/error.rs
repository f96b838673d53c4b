//! Errors as answers: the only place that turns one into the other.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write;

use chatapi_auth::Denied;
use chatapi_domain::Invalid;
use chatapi_storage::Error as StoreError;
use hyper::StatusCode;

use crate::route::Access;

type Source = Box<dyn StdError + Send + Sync>;

/// The kinds of errors of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    TenantSuspended,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    UpgradeRequired,
    IdempotencyKeyReused,
    RateLimited,
    QuotaExceeded,
    Internal,
    Unavailable,
}

impl Kind {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::TenantSuspended => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited | Self::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::TenantSuspended => "tenant_suspended",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UpgradeRequired => "upgrade_required",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::RateLimited => "rate_limit_exceeded",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Internal => "internal_error",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A request that fails: what the caller is told, and what the log is told besides.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: Cow<'static, str>,
    retry_after: Option<u64>,
    allow: Option<String>,
    source: Option<Source>,
}

impl ApiError {
    pub(crate) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), retry_after: None, allow: None, source: None }))
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Invalid::new(field, reason).into()
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("{what} not found"))
    }

    pub(crate) fn method_not_allowed(allow: String) -> Self {
        let mut error = Self::new(Kind::MethodNotAllowed, format!("This path allows {allow}"));
        error.0.allow = Some(allow);
        error
    }

    pub(crate) fn rate_limited(message: &'static str, wait_nanos: u64) -> Self {
        let mut error = Self::new(Kind::RateLimited, message);
        error.0.retry_after = Some(wait_nanos.div_ceil(1_000_000_000).max(1));
        error
    }

    fn quota_exceeded(retry_seconds: u64) -> Self {
        let mut error = Self::new(Kind::QuotaExceeded, "The tenant's monthly message quota is used up");
        error.0.retry_after = Some(retry_seconds.max(1));
        error
    }

    /// Our fault: the caller learns nothing, the log everything.
    pub(crate) fn internal(source: impl Into<Source>) -> Self {
        let mut error = Self::new(Kind::Internal, "Something went wrong on our side");
        error.0.source = Some(source.into());
        error
    }

    fn unavailable(source: impl Into<Source>) -> Self {
        let mut error = Self::new(Kind::Unavailable, "The service is unavailable at the moment; try again");
        error.0.source = Some(source.into());
        error.0.retry_after = Some(1);
        error
    }

    /// What is answered to one who is not let in at a door of this kind.
    pub(crate) fn denied(denied: Denied, door: Access) -> Self {
        const OPERATOR: &str = "Invalid or missing X-Master-Key header";
        match (denied, door) {
            (Denied::Missing | Denied::Invalid(_) | Denied::Gone, Access::Operator | Access::OperatorOrBackend) => {
                Self::new(Kind::Unauthorized, OPERATOR)
            }
            (Denied::Missing, Access::Public | Access::Backend | Access::Tenant | Access::Socket) => {
                Self::new(Kind::Unauthorized, "Missing X-API-Key header")
            }
            (Denied::Invalid(_) | Denied::Gone, Access::Public | Access::Backend | Access::Tenant | Access::Socket) => {
                Self::new(Kind::Unauthorized, "Invalid API key")
            }
            (Denied::Token, _) => Self::new(Kind::Unauthorized, "Invalid or expired token"),
            (Denied::Suspended, _) => Self::new(Kind::TenantSuspended, "The tenant is suspended"),
            (Denied::TooManyFailures { retry_nanos }, _) => {
                Self::rate_limited("Too many failed attempts from this address", retry_nanos)
            }
            (Denied::Unavailable(source), _) => Self::unavailable(source.to_string()),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Whole seconds after which trying again makes sense.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.0.retry_after
    }

    /// The methods to name in `Allow`.
    pub(crate) fn allow(&self) -> Option<&str> {
        self.0.allow.as_deref()
    }

    /// All that is known of the cause: the drivers' own messages name it only in their sources.
    pub(crate) fn cause(&self) -> Option<String> {
        let source = self.0.source.as_deref()?;
        let mut text = source.to_string();
        let mut next = source.source();
        while let Some(error) = next {
            let _ = write!(text, ": {error}");
            next = error.source();
        }
        Some(text)
    }
}

impl From<&Invalid> for Kind {
    fn from(invalid: &Invalid) -> Self {
        if invalid.too_large { Self::PayloadTooLarge } else { Self::InvalidRequest }
    }
}

impl From<&StoreError> for Kind {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound,
            StoreError::Forbidden(_) => Self::Forbidden,
            StoreError::Conflict(_) => Self::Conflict,
            StoreError::Invalid(invalid) => invalid.into(),
            StoreError::QuotaExceeded { .. } => Self::QuotaExceeded,
            StoreError::Unavailable(_) => Self::Unavailable,
            StoreError::Corrupt { .. } | StoreError::Database(_) => Self::Internal,
        }
    }
}

/// The word of the contract (`not_found`, `conflict` …) for what the store answered.
#[must_use]
pub fn error_code(error: &StoreError) -> &'static str {
    Kind::from(error).code()
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::new(Kind::from(&invalid), invalid.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::not_found(what),
            StoreError::Forbidden(why) | StoreError::Conflict(why) => Self::new(Kind::from(&error), why),
            StoreError::Invalid(invalid) => invalid.into(),
            StoreError::QuotaExceeded { retry_seconds } => Self::quota_exceeded(retry_seconds),
            error @ StoreError::Unavailable(_) => Self::unavailable(error),
            error @ (StoreError::Corrupt { .. } | StoreError::Database(_)) => Self::internal(error),
        }
    }
}
