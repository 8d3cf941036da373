//! The measurements: each takes a stand, works, and returns figures.

mod faults;
mod hot;
mod size;
mod traffic;

use std::time::Duration;

use super::{
    BenchError,
    contestant::{Contestant, Kind},
    stand::{Layout, Stand},
};

/// Figures by their keys.
pub(super) type Found = Vec<(&'static str, f64)>;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Start,
    Idle,
    Tp1,
    Tp1r,
    Tp8,
    Lat1,
    Rps,
    Cps,
    Hot,
    Local,
    Neighbour,
    Stalled,
    Stall,
    Bulk,
}

/// All of them: names of the command line, and what they are about.
pub(super) const MEASURES: [(Measure, &str, &str); 14] = [
    (Measure::Start, "start", "start and resident memory"),
    (Measure::Idle, "idle", "memory of idle connections"),
    (Measure::Tp1, "tp1", "1 stream from the client"),
    (Measure::Tp1r, "tp1r", "1 stream to the client"),
    (Measure::Tp8, "tp8", "8 streams"),
    (Measure::Lat1, "lat1", "1 connection"),
    (Measure::Rps, "rps", "requests"),
    (Measure::Cps, "cps", "new connections"),
    (Measure::Hot, "hot", "one busy pod of several"),
    (Measure::Local, "local", "pods of one node"),
    (Measure::Neighbour, "neighbour", "a neighbour that opens connections"),
    (Measure::Stalled, "stalled", "readers that stopped"),
    (Measure::Stall, "stall", "pushes"),
    (Measure::Bulk, "bulk", "100,000 workloads"),
];

/// What a measurement may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How long to go on, where that is a choice.
    pub(super) time: Duration,
    /// Connections held idle.
    pub(super) idle: usize,
    /// Workloads of a large mesh.
    pub(super) workloads: u32,
}

// === impl Measure ===

impl Measure {
    /// The one of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        MEASURES.iter().find(|(_, known, _)| *known == name).map(|(measure, ..)| *measure)
    }

    /// What it is about, in words.
    pub(super) fn about(self) -> &'static str {
        MEASURES.iter().find(|(measure, ..)| *measure == self).map_or("", |(_, _, about)| about)
    }

    /// The mesh it needs; those that need the same share one.
    pub(super) fn layout(self) -> Layout {
        match self {
            Self::Local | Self::Bulk => Layout::OneNode,
            Self::Hot | Self::Neighbour | Self::Stalled | Self::Stall => Layout::Neighbours,
            _ => Layout::Pair,
        }
    }

    /// Whether it needs a mesh for itself.
    pub(super) fn is_alone(self) -> bool {
        matches!(self, Self::Stall | Self::Bulk)
    }

    /// Whether it says anything about that contestant.
    pub(super) fn concerns(self, contestant: &Contestant) -> bool {
        match self {
            Self::Start | Self::Idle | Self::Bulk => contestant.is_node(),
            Self::Hot | Self::Local | Self::Neighbour | Self::Stalled | Self::Stall => {
                contestant.is_node() || contestant.is_direct()
            }
            Self::Tp1 | Self::Tp1r | Self::Tp8 | Self::Lat1 | Self::Rps | Self::Cps => true,
        }
    }

    /// Workloads that the mesh has from the start, besides its pods.
    pub(super) fn bulk(self, effort: &Effort) -> u32 {
        if self == Self::Bulk { effort.workloads } else { 0 }
    }

    /// Takes it.
    pub(super) fn take(
        self,
        stand: &mut Stand,
        contestant: &Contestant,
        effort: &Effort,
    ) -> Result<Found, BenchError> {
        match self {
            Self::Start => size::start(stand),
            Self::Idle => size::idle(stand, effort.idle),
            Self::Tp1 | Self::Tp1r | Self::Tp8 => traffic::throughput(self, stand, effort.time),
            Self::Lat1 | Self::Rps | Self::Cps => traffic::requests(self, stand, effort.time),
            Self::Hot => hot::hot(stand, effort.time),
            Self::Local => traffic::local(stand, effort.time),
            Self::Neighbour => faults::neighbour(stand, effort.time),
            Self::Stalled => faults::stalled(stand, effort.time),
            Self::Stall => faults::stall(stand, effort),
            Self::Bulk => match &contestant.kind {
                Kind::Node(_) => size::bulk(stand),
                _ => Ok(Found::new()),
            },
        }
    }
}
