//! The control plane's side: discovery, certificates, the mesh tables, and the hand-over of pods by istio-cni.

pub mod certs;
pub mod grpc;
pub mod mesh;
pub mod xds;
pub mod zds;
