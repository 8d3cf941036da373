//! Where a server of the control plane is, and how it is known.

use std::{fmt, time::Duration};

use crate::protocols::config::{Address, RootSource, TlsConfig, Upstream};

/// How long resolving, TCP and TLS may take together.
/// Limit: name, TCP and TLS of a connection to the control plane: 5 s; past it: the attempt fails and names its step.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC server to connect to, and whom to believe that it is that server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrpcTarget {
    /// Where it is: dialled, sent as SNI (names only), and looked for in the certificate.
    pub address: Address,
    /// Who may have signed the server's certificate. Read again for every connection.
    pub roots: RootSource,
    /// A second name the certificate may carry in place of the address's host.
    pub alt_hostname: Option<String>,
    /// What is negotiated.
    pub tls: TlsConfig,
    /// How long resolving, TCP and TLS may take together: [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
}

// === impl GrpcTarget ===

impl GrpcTarget {
    /// A server of the control plane.
    pub(crate) fn new(upstream: &Upstream, tls: &TlsConfig) -> Self {
        Self {
            address: upstream.address.clone(),
            roots: upstream.roots.clone(),
            alt_hostname: upstream.alt_hostname.clone(),
            tls: tls.clone(),
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// The server at `address`, by TLS 1.3.
    pub(crate) fn at(address: Address, roots: RootSource) -> Self {
        let tls = TlsConfig::default();
        Self { address, roots, alt_hostname: None, tls, connect_timeout: CONNECT_TIMEOUT }
    }
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address.bracketed(), self.address.port)
    }
}
