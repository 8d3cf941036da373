//! The DNS proxy of a pod: how names are answered.

mod context;
pub(crate) mod serve;
pub(crate) mod sockets;
mod upstream;

pub(crate) use self::context::{DnsContext, DnsState};
