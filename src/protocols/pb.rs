//! Generated messages and services of `proto/`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

/// `envoy.service.discovery.v3`: the delta discovery stream.
pub(crate) mod ads {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// `istio.v1.auth`: the certificate authority.
pub(crate) mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// `warren.handover`: how a process hands live connections to the next one.
pub(crate) mod handover {
    tonic::include_proto!("warren.handover");

    impl Drop for TlsKeys {
        /// Wipes the secret.
        fn drop(&mut self) {
            zeroize::Zeroize::zeroize(&mut self.secret);
        }
    }

    impl std::fmt::Debug for TlsKeys {
        /// Leaves the secret out.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("TlsKeys").field("sequence", &self.sequence).finish_non_exhaustive()
        }
    }
}

/// `perftools.profiles`: what pprof reads.
pub mod profile {
    tonic::include_proto!("perftools.profiles");
}

/// `istio.security`: authorization policies. Beside `workload` because it refers to it.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// `istio.workload`: workloads and services.
pub mod workload {
    tonic::include_proto!("istio.workload");

    /// `istio.workload.zds`: istio-cni's hand-over of pods.
    pub(crate) mod zds {
        tonic::include_proto!("istio.workload.zds");
    }
}
