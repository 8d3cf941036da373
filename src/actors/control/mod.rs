//! The actors of the control path: discovery, certificates, the mesh tables, and the hand-over of pods by istio-cni.

pub(crate) mod certs;
pub(crate) mod grpc;
pub(crate) mod local;
pub(crate) mod mesh;
pub(crate) mod xds;
pub(crate) mod zds;
