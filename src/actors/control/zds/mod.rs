//! The connection with istio-cni, which says which pods of the node to serve (docs/spec/dataplane.md 6).
//!
//! The actor owns the connection and the starts and stops under way. The pods themselves live behind [`Pods`] and
//! outlive it: a restarted actor asks which run and waits for the agent to name them again.

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
