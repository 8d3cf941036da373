//! The DNS proxy of a pod, which answers the pod's queries.

mod context;
pub(crate) mod serve;
pub(crate) mod sockets;
mod upstream;

pub(crate) use self::context::{DnsContext, DnsState};
