//! How much of everything a row has, and how long it may stall.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How a row is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The number of streams.
    pub(super) streams: usize,
    /// The number of upgrades of each node.
    pub(super) upgrades: u32,
    /// How long idle streams are left alone after their upgrades.
    pub(super) idle: Duration,
    /// The factor on the limits of stalls.
    pub(super) slack: u32,
}

/// The longest stall of a stream that is allowed.
pub(super) fn longest_stall(extent: &Extent) -> Duration {
    let limit = if extent.streams <= 50 { 50 } else { 250 };
    Duration::from_millis(limit) * extent.slack
}

/// Lets traffic run for a while.
pub(super) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
