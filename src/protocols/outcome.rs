//! The outcomes of connections, with their metric labels and log texts in one table (docs/spec/controlplane.md 5.3, 6.2
//! and 6.3; docs/spec/dataplane.md 2.7).

use std::{borrow::Cow, error::Error, fmt, sync::Arc};

use super::{peer_text::Clipped, relay::RelayError};

/// The cause that the layer below reported. An error is kept as it is and only becomes text when it is displayed. Two
/// causes are equal if their texts are equal. A peer may have had a part in a text, so a long one is cut.
#[derive(Clone)]
pub enum Cause {
    /// A text of this proxy.
    Text(Cow<'static, str>),
    /// An error.
    Error(Arc<dyn Error + Send + Sync>),
}

/// Value of the `response_flags` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// The connection ended as both sides wanted.
    Ok,
    /// A policy denied the connection.
    Deny,
    /// The next hop could not be reached, or the error has no flag of its own.
    Connect,
    /// A certificate or TLS could not be set up.
    TlsFailure,
    /// HTTP/2 failed.
    H2HandshakeFailure,
    /// Dialling HBONE timed out, which a NetworkPolicy may cause.
    NetworkPolicy,
    /// There is no certificate for the local workload.
    IdentityError,
    /// The peer's certificate is revoked.
    CertRevoked,
}

/// The log level of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing went wrong.
    Info,
    /// The connection failed or was cut.
    Error,
}

/// How a connection ended. [`fmt::Display`] is the `error` field of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions were carried to their end.
    Complete,
    /// This proxy ended the connection.
    Cut(Cut),
    /// A policy denied the connection.
    Denied(Denial),
    /// The connection had no next hop.
    Unroutable(Unroutable),
    /// A step of the setup or the transport failed.
    Failed(Failure),
}

/// Why this proxy ended a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The proxy shuts down, or the pod left.
    Drain,
    /// A changed policy forbids the connection.
    PolicyChange,
    /// The peer's certificate was revoked.
    Revoked,
    /// An operator has asked for it.
    Operator,
}

/// Why authorization refused a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A DENY policy matched: `<namespace>/<name>`.
    #[error("explicitly denied by: {0}")]
    Explicit(Box<str>),
    /// ALLOW policies exist and none of them matched.
    #[error("allow policies exist, but none allowed")]
    NotAllowed,
    /// The destination is no known workload.
    #[error("workload not found")]
    WorkloadNotFound,
    /// The destination is not the workload of this pod.
    #[error("workload mismatch")]
    WorkloadMismatch,
}

/// Why no next hop was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// The waypoint that the destination names is not known.
    #[error("unknown waypoint: {0}")]
    UnknownWaypoint(#[source] Cause),
    /// The service has no usable endpoint.
    #[error("no healthy upstream: {0}")]
    NoHealthyUpstream(#[source] Cause),
    /// The workload has no addresses, and its hostname did not resolve.
    #[error("no ip addresses were resolved for workload: {0}")]
    NoAddresses(#[source] Cause),
    /// The local workload is not known to the control plane: `<sa>.<ns> (<pod>)`.
    #[error("failed to fetch information about local workload: {0}")]
    UnknownLocalWorkload(#[source] Cause),
    /// The destination is a port of this proxy.
    #[error("attempted recursive call to ourselves")]
    Recursive,
    /// The tunnel request is no CONNECT.
    #[error("expected method CONNECT, got {0}")]
    NotConnect(#[source] Cause),
    /// The named item did not arrive in time.
    #[error("timed out waiting for {0}")]
    Waited(#[source] Cause),
    /// The address is not known, and the control plane cannot be asked for it.
    #[error("address not known: {0}")]
    Undiscovered(#[source] Cause),
}

/// The step that failed on the way to the next hop or while the relay carried bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The next hop refused or did not answer.
    #[error("connection failed: {0}")]
    Dial(#[source] Cause),
    /// Dialling an HBONE port timed out.
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: {0}")]
    HboneTimeout(#[source] Cause),
    /// Input or output failed outside the relay.
    #[error("io error: {0}")]
    Io(#[source] Cause),
    /// TLS or its certificates failed.
    #[error("tls error: {0}")]
    Tls(#[source] Cause),
    /// The TLS handshake of an outbound tunnel failed. ztunnel reports such a failure as one of the connection.
    #[error("tls error: {0}")]
    TunnelTls(#[source] Cause),
    /// There is no certificate for the local identity.
    #[error("identity error: {0}")]
    Identity(#[source] Cause),
    /// The HTTP/2 handshake of a tunnel failed.
    #[error("http2 handshake failed: {0}")]
    H2Handshake(#[source] Cause),
    /// A tunnel or one of its streams failed.
    #[error("h2 failed: {0}")]
    H2(#[source] Cause),
    /// The peer answered the CONNECT with another status than 200.
    #[error("http status: {0}")]
    Status(u16),
    /// Reading from the client failed, or writing the client's bytes failed.
    #[error("send: {0}")]
    Send(#[source] Cause),
    /// Reading from the destination failed, or writing the destination's bytes failed.
    #[error("receive: {0}")]
    Receive(#[source] Cause),
}

// === impl Unroutable ===

impl Unroutable {
    /// The reason as a label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownWaypoint(_) => "unknown_waypoint",
            Self::NoHealthyUpstream(_) => "no_healthy_upstream",
            Self::NoAddresses(_) => "no_addresses",
            Self::UnknownLocalWorkload(_) => "unknown_local_workload",
            Self::Recursive => "recursive",
            Self::NotConnect(_) => "not_connect",
            Self::Waited(_) => "timed_out",
            Self::Undiscovered(_) => "undiscovered",
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Makes a cause of `error`.
    pub fn of(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Error(Arc::new(error))
    }

    /// Makes a cause of a shared `error`.
    pub fn shared(error: &Arc<impl Error + Send + Sync + 'static>) -> Self {
        Self::Error(error.clone())
    }
}

impl From<&'static str> for Cause {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Clipped::<_>(text).fmt(f),
            Self::Error(error) => Clipped::<_>(error).fmt(f),
        }
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Error(error) => error.fmt(f),
        }
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Text(_) => None,
            Self::Error(error) => Some(&**error),
        }
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Cause {}

// === impl ResponseFlag ===

impl ResponseFlag {
    /// All flags; a flag's place is [`ResponseFlag::index`].
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2HandshakeFailure,
        Self::NetworkPolicy,
        Self::IdentityError,
        Self::CertRevoked,
    ];

    /// Text of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }

    /// Place in [`ResponseFlag::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

// === impl Outcome ===

impl Outcome {
    /// The `response_flags` label.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::Complete | Self::Cut(Cut::Drain | Cut::Operator) => ResponseFlag::Ok,
            Self::Cut(Cut::PolicyChange) | Self::Denied(_) => ResponseFlag::Deny,
            Self::Cut(Cut::Revoked) => ResponseFlag::CertRevoked,
            Self::Unroutable(_) => ResponseFlag::Connect,
            Self::Failed(failure) => failure.flag(),
        }
    }

    /// The reason of a connection without a next hop, as a label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unroutable(why) => why.reason(),
            Self::Failed(Failure::Identity(_)) => "identity",
            _ => "other",
        }
    }

    /// The level of the access log line.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Complete => Severity::Info,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Cut(Cut::Drain) => f.write_str("connection closed due to connection drain"),
            Self::Cut(Cut::Operator) => f.write_str("connection closed by an operator"),
            Self::Cut(Cut::PolicyChange) => f.write_str("connection closed due to policy change"),
            Self::Cut(Cut::Revoked) => f.write_str("connection closed: peer certificate revoked by CRL"),
            Self::Denied(denial) => write!(f, "connection closed due to policy rejection: {denial}"),
            Self::Unroutable(why) => why.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl From<Cut> for Outcome {
    fn from(cut: Cut) -> Self {
        Self::Cut(cut)
    }
}

impl From<Denial> for Outcome {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Unroutable> for Outcome {
    fn from(why: Unroutable) -> Self {
        Self::Unroutable(why)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

// === impl Failure ===

impl Failure {
    /// The `response_flags` label.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::Dial(_)
            | Self::TunnelTls(_)
            | Self::Io(_)
            | Self::Status(_)
            | Self::Send(_)
            | Self::Receive(_) => ResponseFlag::Connect,
            Self::HboneTimeout(_) => ResponseFlag::NetworkPolicy,
            Self::Tls(_) => ResponseFlag::TlsFailure,
            Self::Identity(_) => ResponseFlag::IdentityError,
            Self::H2Handshake(_) | Self::H2(_) => ResponseFlag::H2HandshakeFailure,
        }
    }
}

impl From<RelayError> for Failure {
    fn from(fault: RelayError) -> Self {
        match fault {
            RelayError::Receive(error) => Self::Receive(Cause::of(error)),
            RelayError::Send(error) => Self::Send(Cause::of(error)),
            RelayError::PeerReset(reason) => Self::H2(Cause::of(PeerReset(reason))),
            RelayError::Tunnel(error) => Self::H2(Cause::of(error)),
            RelayError::Undelivered => Self::Send(Cause::of(fault)),
        }
    }
}

/// The peer reset a stream with this HTTP/2 error code.
#[derive(Debug, thiserror::Error)]
#[error("stream reset by peer: {0}")]
struct PeerReset(h2::Reason);

#[cfg(test)]
mod tests;
