//! The TLS connections to collectors, which the starter of the export provides.

use std::{error::Error, fmt, future::Future, pin::Pin};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::Channel;

use crate::protocols::config::CollectorConfig;

/// Makes TLS connections to collectors.
pub trait TlsDialer: fmt::Debug + Send + Sync {
    /// A gRPC channel to `collector` that connects with its first request.
    ///
    /// # Errors
    /// The endpoint is not valid.
    fn channel(&self, collector: &CollectorConfig) -> Result<Channel, DialError>;

    /// A connection to `collector` for HTTP/1.1, within the collector's timeout.
    fn http1(&self, collector: &CollectorConfig) -> Dialing;
}

/// The error of a dialer that made no connection.
pub type DialError = Box<dyn Error + Send + Sync>;

/// A connection that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = Result<TlsStream<TcpStream>, DialError>> + Send>>;
