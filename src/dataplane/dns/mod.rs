//! The DNS proxy of a pod: how names are answered.

mod ask;
mod context;
pub(crate) mod serve;
pub(crate) mod sockets;

pub(crate) use self::context::{DnsContext, DnsState};
