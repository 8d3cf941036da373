//! TLS connections to collectors of telemetry, by the same code as those to the control plane.

use tonic::transport::Channel;

use crate::{
    actors::control::grpc::{self, GrpcTarget},
    protocols::config::{Address, CollectorConfig, RootSource, TlsConfig},
    telemetry::export::{DialError, Dialing, TlsDialer},
};

/// Dials collectors with the roots that their settings name.
#[derive(Clone, Copy, Debug)]
pub struct CollectorDialer;

impl TlsDialer for CollectorDialer {
    fn channel(&self, collector: &CollectorConfig) -> Result<Channel, DialError> {
        Ok(grpc::lazily(&target(collector))?)
    }

    fn http1(&self, collector: &CollectorConfig) -> Dialing {
        let target = target(collector);
        Box::pin(async move { Ok(grpc::http1(&target).await?) })
    }
}

fn target(collector: &CollectorConfig) -> GrpcTarget {
    let (host, port) = (collector.endpoint.host.clone(), collector.endpoint.port);
    let roots = collector.roots.as_ref().map_or(RootSource::System, |path| RootSource::File(path.clone()));
    GrpcTarget {
        tls: TlsConfig { tls12: true, ..TlsConfig::default() },
        connect_timeout: collector.timeout,
        ..GrpcTarget::at(Address { host, port }, roots)
    }
}
