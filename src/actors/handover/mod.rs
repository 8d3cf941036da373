//! Live connections move to the next process of the node, and come from the former one, as kernel sockets with what is
//! known of them. No application and no peer notices.
//!
//! A process that is ready listens at a Unix socket beside istio-cni's. A process that is told to stop connects there
//! and offers its connections, one by one. A connection is at each moment with exactly one of the two: the new process
//! touches a socket only after the answer is sent, and the old one gives up only connections whose answer it has.

mod actor;
mod admit;
mod admit_tunnel;
pub(crate) mod exchange;
mod fault;
mod give;
mod handle;
pub(crate) mod link;
pub(crate) mod listen;
mod shared;
mod take;

pub(crate) use self::{handle::Handover, shared::Terms};
