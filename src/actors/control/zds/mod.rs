//! The connection with istio-cni, which tells the proxy the pods of the node to serve (docs/spec/dataplane.md 6).
//!
//! The actor owns the connection and the running starts and stops. The pods live behind [`Pods`] and outlive the
//! actor. A restarted actor asks which pods run and waits until the agent names the pods again.

mod actor;
mod handle;
mod link;
mod message;
mod pods;
mod status;

pub(crate) use self::{
    handle::Zds,
    pods::{PodSpec, Pods},
    status::ZdsStatus,
};
