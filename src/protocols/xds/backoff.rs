//! How a stream ended, and when to open the next one (docs/spec/controlplane.md 2.5).

use std::{fmt, time::Duration};

use tonic::Code;

/// Limit: pause between two discovery streams, at first: 10 ms; past it: the pause doubles.
const RECONNECT_FIRST: Duration = Duration::from_millis(10);
/// Limit: pause between two discovery streams, at most: 15 s; past it: the pause stays as long.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Files or settings of ours are of no use.
    Local(String),
    /// No connection, no usable token, or a status before the stream stood.
    Refused {
        /// The status, where there was one.
        code: Option<Code>,
        /// What to tell the operator.
        error: String,
    },
    /// The stream stood and ended with a status other than Ok.
    Status {
        /// The status.
        code: Code,
        /// Its text.
        message: String,
    },
    /// The server ended the stream without complaint.
    Complete {
        /// Whether it had sent any response on it.
        answered: bool,
    },
    /// Something that should have gone on within a bound did not.
    Stalled(String),
    /// Whoever applies resources is gone.
    SinkDown(String),
}

/// The `reason` label of `istio_xds_connection_terminations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Termination {
    /// Never stood.
    ConnectionError,
    /// Ended for a reason that may last.
    Error,
    /// Ended as servers end streams now and then.
    Reconnect,
    /// Ended without a status.
    Complete,
}

/// The delay before the next attempt.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    delay: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// As at process start.
    pub(crate) fn new() -> Self {
        Self { delay: RECONNECT_FIRST }
    }

    /// How to count this end, and how long to wait. Not jittered: servers spread load by when they close streams.
    pub(crate) fn after(&mut self, end: &End) -> (Termination, Duration) {
        match end {
            End::Refused { .. } => (Termination::ConnectionError, self.double()),
            End::Status { code, message } if is_routine(*code, message) => {
                self.delay = RECONNECT_FIRST;
                (Termination::Reconnect, RECONNECT_FIRST)
            }
            End::Complete { answered: true } => {
                self.delay = RECONNECT_FIRST;
                (Termination::Complete, Duration::ZERO)
            }
            // A server that closes every stream at once would be called without a pause.
            End::Complete { answered: false } => (Termination::Complete, self.double()),
            End::Status { .. } | End::Local(_) | End::Stalled(_) | End::SinkDown(_) => {
                (Termination::Error, self.double())
            }
        }
    }

    fn double(&mut self) -> Duration {
        self.delay = (self.delay * 2).min(RECONNECT_MAX);
        self.delay
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

fn is_routine(code: Code, message: &str) -> bool {
    match code {
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
        Code::Unavailable => {
            message.contains("transport is closing") || message.contains("received prior goaway")
        }
        _ => false,
    }
}

// === impl End ===

impl End {
    /// Whether this is how servers end streams in daily life, not worth a warning.
    pub(crate) fn is_routine(&self) -> bool {
        match self {
            End::Complete { answered } => *answered,
            End::Status { code, message } => is_routine(*code, message),
            _ => false,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Local(error) | End::Stalled(error) | End::SinkDown(error) => f.write_str(error),
            End::Refused { error, .. } => f.write_str(error),
            End::Status { code, message } => write!(f, "{code:?}: {message}"),
            End::Complete { .. } => f.write_str("closed by the server"),
        }
    }
}

// === impl Termination ===

impl Termination {
    /// The label value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Termination::ConnectionError => "ConnectionError",
            Termination::Error => "Error",
            Termination::Reconnect => "Reconnect",
            Termination::Complete => "Complete",
        }
    }
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
