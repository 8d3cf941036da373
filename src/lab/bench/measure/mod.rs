//! The measurements: each takes a stand, works, and returns figures.

mod faults;
mod hot;
mod kind;
mod size;
mod traffic;

use super::{
    contestant::{Contestant, Kind},
    error::BenchError,
    stand::Stand,
};

pub(super) use self::kind::{Effort, Found, Measure};

impl Measure {
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
