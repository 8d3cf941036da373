//! The ports of connections that the proxy makes in its clients' names.
//!
//! Such a connection has its client's address. If it also had a port of a later connection of the client, the pod's
//! connection tracking would take both for one connection, and the later one would hang. If the kernel chose the port,
//! the port would be missing from those on which the application can listen and from which it can connect.

use std::sync::atomic::{AtomicU16, Ordering};

/// The first port. All ports are odd: whatever their range, connects of Linux take even ports first. Clients usually
/// connect from ports past 32767: Linux from 32768 to 60999, others from 49152.
/// No limit: a choice among the ports that clients seldom connect from.
const FIRST_PORT: u16 = 22_001;
/// The number of ports.
/// Limit: ports of connections in clients' names: the odd ones from 22001 to 32767; past it: the kernel chooses.
const PORTS: u16 = 5_384;

/// The next port of a pod's connections in its clients' names. All ports take turns, so that a port whose connection
/// has ended rests.
#[derive(Debug, Default)]
pub(crate) struct SourcePorts(AtomicU16);

// === impl SourcePorts ===

impl SourcePorts {
    /// The next port.
    pub(crate) fn next(&self) -> u16 {
        let advance = |turn| Some((turn + 1) % PORTS);
        let turn = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        FIRST_PORT + 2 * turn.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
