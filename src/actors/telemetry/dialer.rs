//! TLS connections to collectors of telemetry, by the same code as those to the control plane.

use tonic::transport::Channel;

use crate::{
    actors::control::grpc::{self, GrpcTarget, RootSource},
    protocols::config::CollectorConfig,
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
    let roots = &collector.roots;
    GrpcTarget {
        host: collector.endpoint.host.clone(),
        port: collector.endpoint.port,
        roots: roots.as_ref().map_or(RootSource::System, |path| RootSource::File(path.into())),
        alt_hostname: None,
        tls12: true,
        post_quantum_only: false,
        connect_timeout: collector.timeout,
    }
}
