//! The ends of discovery streams, and the delay before the next stream (docs/spec/controlplane.md 2.5).

use std::{fmt, time::Duration};

use tonic::Code;

/// Limit: pause between two discovery streams, at first: 10 ms; past it: the pause doubles.
const RECONNECT_FIRST: Duration = Duration::from_millis(10);
/// Limit: pause between two discovery streams, at most: 15 s; past it: the pause stays as long.
const RECONNECT_MAX: Duration = Duration::from_secs(15);

/// How a stream, or the attempt to open a stream, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The local files or settings cannot be used.
    Local(String),
    /// The connection failed, the token cannot be used, or the server sent a status before the stream was established.
    Refused {
        /// The status, if the server sent a status.
        code: Option<Code>,
        /// The error text for the operator.
        error: String,
    },
    /// The stream was established and ended with a status other than Ok.
    Status {
        /// The status.
        code: Code,
        /// The text of the status.
        message: String,
    },
    /// The server ended the stream with status Ok.
    Complete {
        /// Whether the server had sent any response on the stream.
        answered: bool,
    },
    /// A step missed its deadline.
    Stalled(String),
    /// The sink that applies resources is gone.
    SinkDown(String),
}

/// The `reason` label of `istio_xds_connection_terminations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Termination {
    /// The stream was never established.
    ConnectionError,
    /// The stream ended for a reason that may last.
    Error,
    /// The stream ended with a status that servers routinely send.
    Reconnect,
    /// The stream ended without an error status.
    Complete,
}

/// The delay before the next attempt.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    delay: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// Starts with the shortest delay.
    pub(crate) fn new() -> Self {
        Self { delay: RECONNECT_FIRST }
    }

    /// The label for this end, and the delay before the next attempt. The delay has no jitter, because servers spread
    /// load by the time at which they close streams.
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
            // Without a delay, a server that closes every stream at once would be called in a loop.
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
    /// Whether servers routinely end streams in this way, so that no warning is needed.
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
