//! Why the program ends without having done what was asked, and with which exit code.

use std::process::ExitCode;

use chatapi_auth::NotMade;
use chatapi_domain::Invalid;
use chatapi_storage::{Error as StoreError, InvalidUrl};

/// Why the program ends without having done what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot listen on {address} (LISTEN_ADDR): {source}")]
    Listen { address: String, source: std::io::Error },
    #[error(transparent)]
    Cluster(#[from] chatapi_cluster::Error),
    #[error("{}", with_sources(.0))]
    Store(#[from] StoreError),
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start threads: {0}")]
    Runtime(std::io::Error),
    #[error("the cluster's own URL is not usable: {0}")]
    Url(#[from] InvalidUrl),
    #[error(transparent)]
    Key(#[from] NotMade),
    #[error("the result cannot be written: {0}")]
    Output(std::io::Error),
    /// What was found forbids it.
    #[error("{0}")]
    Refused(String),
    /// The command was not used as it can be.
    #[error("{0}")]
    Usage(String),
    /// Several things are to be set right, a line each.
    #[error("{}", lines(.0))]
    Configuration(Vec<String>),
}

/// An error with all that led to it: the driver's own messages name the cause only there.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn lines(errors: &[String]) -> String {
    format!("the configuration is wrong:\n  {}", errors.join("\n  "))
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::Store(invalid.into())
    }
}

impl Failure {
    /// 2 for what somebody must set right before another try, 1 for the rest.
    pub(crate) fn exit_code(&self) -> ExitCode {
        use chatapi_cluster::Error::{
            Borrowed, InUse, Io, NoAccount, NoCluster, NotOurs, Program, ProgramsMissing, Unreachable,
        };
        match self {
            Self::Cluster(ProgramsMissing { .. } | NoAccount | Unreachable { .. } | InUse { .. } | NotOurs { .. })
            | Self::Store(StoreError::Invalid(_))
            | Self::Listen { .. }
            | Self::Usage(_)
            | Self::Configuration(_) => ExitCode::from(2),
            Self::Cluster(Program { .. } | Io { .. } | Borrowed { .. } | NoCluster { .. })
            | Self::Store(_)
            | Self::Signals(_)
            | Self::Runtime(_)
            | Self::Url(_)
            | Self::Key(_)
            | Self::Output(_)
            | Self::Refused(_) => ExitCode::FAILURE,
        }
    }

    /// What the audit log says of it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => chatapi_http::error_code(error),
            _ => "internal_error",
        }
    }
}
