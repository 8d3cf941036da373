//! The handshakes of peers that are not authenticated yet, counted by their source.

use std::{cell::RefCell, net::IpAddr, rc::Rc};

use foldhash::HashMap;

use crate::runtime::shard::Shard;

/// The number of handshakes of one source at a time.
/// Limit: handshakes of a source that are not done, on each shard: 128; past it: the connection is closed, with a log
/// line.
pub(super) const MAX_OF_SOURCE: u32 = 128;

/// The handshakes under way on one shard, by source.
#[derive(Default)]
struct UnderWay(RefCell<HashMap<IpAddr, u32>>);

/// Counts a handshake until the drop.
pub(super) struct Handshake {
    under_way: Rc<UnderWay>,
    source: IpAddr,
}

// === impl Handshake ===

impl Handshake {
    /// Counts a handshake of `source` that begins on `shard`. `None`: the source has too many already.
    pub(super) fn begin(shard: &Shard, source: IpAddr) -> Option<Self> {
        let under_way = shard.local::<UnderWay>();
        let mut counts = under_way.0.borrow_mut();
        let count = counts.entry(source).or_default();
        if *count >= MAX_OF_SOURCE {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { under_way, source })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.under_way.0.borrow_mut();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests;
