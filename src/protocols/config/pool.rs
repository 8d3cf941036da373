//! How tunnels are shared (docs/spec/dataplane.md 2.6).

use std::time::Duration;

use serde::Serialize;

use super::{
    reader::{Reader, defaults},
    summary,
    var::Var,
};

const MAX_STREAMS: Var = Var::number(
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "100",
    "Streams of one tunnel. More of them open another tunnel.",
);
const UNUSED_RELEASE: Var =
    Var::duration("POOL_UNUSED_RELEASE_TIMEOUT", "5m", "How long a tunnel that nobody uses is kept.");

/// No limit: a unit of time.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How tunnels are shared.
#[derive(Clone, Debug, Serialize)]
pub struct PoolConfig {
    /// The maximum number of streams on one connection.
    pub max_streams: usize,
    /// The time for which an unused connection is kept.
    #[serde(serialize_with = "summary::duration")]
    pub unused_release: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl PoolConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            max_streams: r.number(&MAX_STREAMS, 1..=usize::from(u16::MAX)),
            unused_release: r.duration(&UNUSED_RELEASE, Duration::ZERO..=DAY),
        }
    }
}
