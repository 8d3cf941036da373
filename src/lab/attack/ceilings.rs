//! What an attack may cost.

use std::time::Duration;

/// The most that an attack may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ceilings {
    /// The slowest answer to a message of the victim, in milliseconds.
    pub(super) echo_ms: u64,
    /// The slowest request to the victim on a new connection, in milliseconds.
    pub(super) new_ms: u64,
    /// The growth of the proxy's memory at any moment, in MiB.
    pub(super) grown_mib: u64,
    /// The growth of the proxy's descriptors at any moment.
    pub(super) grown_descriptors: u64,
    /// The time until memory and descriptors are those of before.
    pub(super) recovery: Duration,
}

/// The ceilings on a quiet machine of two processors.
pub(super) const QUIET: Ceilings = Ceilings {
    echo_ms: 250,
    new_ms: 1_000,
    grown_mib: 160,
    grown_descriptors: 1_500,
    recovery: Duration::from_secs(30),
};

impl Ceilings {
    /// The ceilings of a machine that others use, too: `factor` times as long. Memory and descriptors stay.
    pub(super) fn slower(self, factor: u32) -> Self {
        let times = |ms: u64| ms * u64::from(factor);
        Self {
            echo_ms: times(self.echo_ms),
            new_ms: times(self.new_ms),
            recovery: self.recovery * factor,
            ..self
        }
    }
}
