//! The measurements: each measurement uses a mesh and returns figures.

mod dump;
mod faults;
mod hot;
mod kind;
mod size;
mod traffic;

use super::{
    bench_mesh::BenchMesh,
    contestant::{Contestant, Kind},
    error::BenchError,
};

pub(super) use self::kind::{Effort, Measure, Measured};

impl Measure {
    /// Takes the measurement.
    pub(super) fn take(
        self,
        bench_mesh: &mut BenchMesh,
        contestant: &Contestant,
        effort: &Effort,
    ) -> Result<Measured, BenchError> {
        match self {
            Self::Start => size::start(bench_mesh),
            Self::Idle => size::idle(bench_mesh, effort.idle),
            Self::Tp1 | Self::Tp1r | Self::Tp8 => traffic::throughput(self, bench_mesh, effort.time),
            Self::Lat1 | Self::Rps | Self::Cps => traffic::requests(self, bench_mesh, effort.time),
            Self::Hot => hot::hot(bench_mesh, effort.time),
            Self::Local => traffic::local(bench_mesh, effort.time),
            Self::Neighbour => faults::neighbour(bench_mesh, effort.time),
            Self::Stalled => faults::stalled(bench_mesh, effort.time),
            Self::Stall => faults::stall(bench_mesh, effort),
            Self::Bulk => match &contestant.kind {
                Kind::Node(_) => size::bulk(bench_mesh),
                _ => Ok(Measured::new()),
            },
        }
    }
}
