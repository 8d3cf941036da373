//! Which refused connections get a line in the access log.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// The number of refusals of a peer that are logged at once.
/// Limit: log lines about refused connections of one peer in a row: 10; past it: one a second, with the count of those
/// that were left out.
const LINES_IN_A_ROW: u32 = 10;
/// The time after which another refusal of a peer is logged.
/// No limit: the pace of the lines that [`LINES_IN_A_ROW`] bounds.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The number of peers whose refusals are told apart, until the next sweep.
/// Limit: peers whose refused connections are logged apart: 1024 in a minute; past it: further peers count as one.
const PEERS_MAX: usize = 1024;
/// The bits of an IPv6 address that name a peer. A peer may choose the others.
/// No limit: the length of a prefix.
const IPV6_PREFIX: u32 = 64;

/// Decides which refused connections get a line in the access log. A peer is an IPv4 address or an IPv6 network.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    table: Mutex<Table>,
}

/// Whether a refused connection gets a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    /// The connection gets a line.
    Written {
        /// The number of the peer's refusals that got no line since its last line.
        left_out: u64,
    },
    /// The connection gets no line. It is counted, and a later line has the count.
    LeftOut,
}

#[derive(Debug, Default)]
struct Table {
    peers: HashMap<IpAddr, Peer, RandomState>,
    others: Peer,
}

/// The allowance of a peer.
#[derive(Debug, Default)]
struct Peer {
    /// When the allowance will be whole again; each line puts it off by [`LINE_EVERY`].
    whole_at: Option<Instant>,
    left_out: u64,
}

// === impl Refusals ===

impl Refusals {
    /// Counts a refused connection of `peer` at `now`.
    pub(crate) fn sample(&self, peer: IpAddr, now: Instant) -> Sample {
        let peer = network(peer);
        let Table { peers, others } = &mut *self.table.lock();
        let has_room = peers.len() < PEERS_MAX;
        match peers.get_mut(&peer) {
            Some(known) => known.sample(now),
            None if has_room => peers.entry(peer).or_default().sample(now),
            None => others.sample(now),
        }
    }

    /// Logs how many connections got no line and are in no later line yet, and forgets the peers whose allowance is
    /// whole.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut untold = Vec::new();
        {
            let mut table = self.table.lock();
            let beyond = std::mem::take(&mut table.others.left_out);
            untold.extend((beyond > 0).then_some((None, beyond)));
            table.peers.retain(|ip, peer| {
                let left_out = std::mem::take(&mut peer.left_out);
                untold.extend((left_out > 0).then_some((Some(*ip), left_out)));
                peer.whole_at.is_some_and(|at| at > now)
            });
        }
        // The log is written without the lock.
        for (peer, left_out) in untold {
            let peer = peer.map_or_else(|| "others".to_owned(), |ip| ip.to_string());
            tracing::event!(
                target: "access",
                tracing::Level::WARN,
                src.addr = %peer,
                left_out,
                "refused connections without a line"
            );
        }
    }
}

// === impl Peer ===

impl Peer {
    fn sample(&mut self, now: Instant) -> Sample {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        if whole_at.saturating_duration_since(now) > LINE_EVERY * (LINES_IN_A_ROW - 1) {
            self.left_out += 1;
            return Sample::LeftOut;
        }
        self.whole_at = Some(whole_at + LINE_EVERY);
        Sample::Written { left_out: std::mem::take(&mut self.left_out) }
    }
}

/// The IPv4 address, or the IPv6 network, that stands for a peer.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
