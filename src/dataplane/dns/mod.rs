//! The DNS proxy of a pod, which answers the pod's queries.

mod context;
pub(crate) mod resolve;
pub(crate) mod serve;
pub(crate) mod sockets;
pub(crate) mod upstream;

pub(crate) use self::context::{DnsContext, DnsState};
