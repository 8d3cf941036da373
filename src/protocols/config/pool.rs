//! How tunnels are shared (docs/spec/dataplane.md 2.6).

use std::time::Duration;

use serde::Serialize;

use super::{reader::Reader, summary};

/// No limit: a unit of time.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How tunnels are shared.
#[derive(Clone, Debug, Serialize)]
pub struct PoolConfig {
    /// Streams of one connection.
    pub max_streams: u16,
    /// How long a connection nobody uses is kept.
    #[serde(serialize_with = "summary::duration")]
    pub unused_release: Duration,
}

impl PoolConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let five_minutes = Duration::from_secs(300);
        Self {
            max_streams: r.number("POOL_MAX_STREAMS_PER_CONNECTION", 100, 1..=u16::MAX),
            unused_release: r.duration("POOL_UNUSED_RELEASE_TIMEOUT", five_minutes, Duration::ZERO..=DAY),
        }
    }
}
