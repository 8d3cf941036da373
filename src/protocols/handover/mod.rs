//! How a process hands its live connections to the next process of its node: the messages, and how they are packed.

pub(crate) mod message;
pub(crate) mod outline;
pub(crate) mod packets;
pub(crate) mod record;
pub(crate) mod tunnel;

/// The version of the protocol. It changes when an older process would misread a message.
/// No limit: a version.
pub(crate) const PROTOCOL: u32 = 1;
