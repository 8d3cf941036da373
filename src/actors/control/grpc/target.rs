//! The address of a control plane server, and the trust in its certificate.

use std::{fmt, time::Duration};

use crate::protocols::config::{Address, RootSource, TlsConfig, Upstream};

/// The time that the name lookup, TCP and TLS may take together.
/// Limit: name, TCP and TLS of a connection to the control plane: 5 s; past it: the attempt fails and names its step.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A gRPC server to connect to, and the roots that authenticate the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrpcTarget {
    /// The address of the server. The address is dialled, sent as SNI (names only), and required in the certificate.
    pub address: Address,
    /// The roots that may have signed the server's certificate. Each connection reads the roots again.
    pub roots: RootSource,
    /// A second name that the certificate may carry in place of the address's host.
    pub alt_hostname: Option<String>,
    /// The TLS settings.
    pub tls: TlsConfig,
    /// The time that the name lookup, TCP and TLS may take together: [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// The `SO_MARK` of the connection, where redirection rules would turn it to the proxy itself.
    pub mark: Option<u32>,
}

// === impl GrpcTarget ===

impl GrpcTarget {
    /// Makes the target of a control plane server.
    pub(crate) fn new(upstream: &Upstream, tls: &TlsConfig) -> Self {
        Self {
            address: upstream.address.clone(),
            roots: upstream.roots.clone(),
            alt_hostname: upstream.alt_hostname.clone(),
            tls: tls.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            mark: None,
        }
    }

    /// The same target, reached by marked packets.
    pub(crate) fn marked(self, mark: Option<u32>) -> Self {
        Self { mark, ..self }
    }

    /// Makes the target of the server at `address`, with TLS 1.3.
    pub(crate) fn at(address: Address, roots: RootSource) -> Self {
        let tls = TlsConfig::default();
        Self { address, roots, alt_hostname: None, tls, connect_timeout: CONNECT_TIMEOUT, mark: None }
    }
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address.bracketed(), self.address.port)
    }
}
