//! The measurements, their meshes, and their effort.

use std::time::Duration;

use clap::ValueEnum;

use crate::lab::bench::{bench_mesh::Layout, contestant::Contestant};

/// Figures by their keys.
pub(crate) type Measured = Vec<(&'static str, f64)>;

/// One measurement. Each is described as the command line and the progress show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Measure {
    /// start and resident memory
    Start,
    /// memory of idle connections
    Idle,
    /// 1 stream from the client
    Tp1,
    /// 1 stream to the client
    Tp1r,
    /// 8 streams
    Tp8,
    /// 1 connection
    Lat1,
    /// requests
    Rps,
    /// new connections
    Cps,
    /// one busy pod of several
    Hot,
    /// pods of one node
    Local,
    /// a neighbour that opens connections
    Neighbour,
    /// readers that stopped
    Stalled,
    /// pushes
    Stall,
    /// 100,000 workloads
    Bulk,
}

/// The number of connections held idle for a measurement of a second or more; a shorter one holds fewer.
const IDLE: usize = 4000;
/// The number of workloads of a large mesh; a measurement of less than a second has fewer.
const WORKLOADS: u32 = 100_000;

/// The effort of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How long a measurement goes on, if its length is a choice.
    pub(crate) time: Duration,
    /// The number of connections held idle.
    pub(crate) idle: usize,
    /// The number of workloads of a large mesh.
    pub(crate) workloads: u32,
}

// === impl Effort ===

impl Effort {
    /// The effort of measurements that take `seconds`. A short measurement only shows that everything works, so it is
    /// small.
    pub(crate) fn of(seconds: f64) -> Self {
        let part = seconds.min(1.0);
        Self {
            time: Duration::from_secs_f64(seconds),
            idle: ((IDLE as f64 * part) as usize).max(1),
            workloads: (f64::from(WORKLOADS) * part) as u32,
        }
    }
}

// === impl Measure ===

impl Measure {
    /// A short description of the measurement.
    pub(crate) fn about(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// The layout of the mesh that the measurement needs; measurements with the same layout share a mesh.
    pub(crate) fn layout(self) -> Layout {
        match self {
            Self::Local | Self::Bulk => Layout::OneNode,
            Self::Hot | Self::Neighbour | Self::Stalled | Self::Stall => Layout::Neighbours,
            _ => Layout::Pair,
        }
    }

    /// Whether the measurement needs a mesh for itself.
    pub(crate) fn is_alone(self) -> bool {
        matches!(self, Self::Stall | Self::Bulk)
    }

    /// Whether the measurement applies to that contestant.
    pub(crate) fn concerns(self, contestant: &Contestant) -> bool {
        match self {
            Self::Start | Self::Idle | Self::Bulk => contestant.is_node(),
            Self::Hot | Self::Local | Self::Neighbour | Self::Stalled | Self::Stall => {
                contestant.is_node() || contestant.is_direct()
            }
            Self::Tp1 | Self::Tp1r | Self::Tp8 | Self::Lat1 | Self::Rps | Self::Cps => true,
        }
    }

    /// The number of workloads that the mesh has from the start, besides its pods.
    pub(crate) fn bulk(self, effort: &Effort) -> u32 {
        if self == Self::Bulk { effort.workloads } else { 0 }
    }
}
