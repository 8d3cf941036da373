//! The counters of connections that move between two processes of a node.

use std::time::Duration;

use prometheus::{IntCounterVec, Registry};

use super::series::{Family, Group, MetricsError, Timer, declared};
use crate::protocols::handover::record::Kind;

/// The label sets of the stall: one for each kind of connection.
/// Limit: label sets of the stall of connections that move: 8; past it: counted as `unknown`.
const KINDS: usize = 8;

/// What became of a connection that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The next process has taken the connection.
    Given,
    /// The next process has not taken the connection, which stays. It may be offered again.
    Kept,
    /// This process has taken the connection over.
    Taken,
    /// This process has refused the connection.
    Refused,
}

/// The `warren_handover_` families.
#[derive(Debug)]
pub(crate) struct HandoverMetrics {
    connections: IntCounterVec,
    stall: Family<Timer>,
}

// === impl Moved ===

impl Moved {
    /// The value of the metric's label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Kept => "kept",
            Self::Taken => "taken",
            Self::Refused => "refused",
        }
    }
}

// === impl HandoverMetrics ===

impl HandoverMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, MetricsError> {
        let stall = Family::new(&[declared::HANDOVER_STALL], KINDS);
        Ok(Self { connections: declared::HANDOVER.counters(r)?, stall })
    }

    /// Counts connections that were offered together, such as those of a tunnel. `kind` is `None` if the record does not
    /// tell.
    pub(crate) fn moved(&self, moved: Moved, kind: Option<Kind>, count: usize) {
        let kind = kind.map_or("unknown", Kind::as_str);
        self.connections.with_label_values(&[moved.as_str(), kind]).inc_by(count as u64);
    }

    /// Records how long a connection or tunnel stood still.
    pub(crate) fn stalled(&self, kind: Kind, time: Duration) {
        self.stall.observe(&[kind.as_str()], time);
    }

    pub(super) fn group(&self) -> Group {
        self.stall.group()
    }
}
