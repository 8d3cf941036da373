//! TCP options of the proxy's sockets (docs/spec/dataplane.md 1.2).

use std::time::Duration;

use serde::Serialize;

use super::{reader::Reader, summary};

/// The longest time and interval, in seconds, and the most probes Linux takes (tcp(7), include/net/tcp.h).
/// Limit: a keepalive time as a setting: 32,767 s; past it: the setting is refused.
const SECONDS_MAX: u64 = 32_767;
/// Limit: keepalive probes as a setting: 127; past it: the setting is refused.
const PROBES_MAX: u32 = 127;

/// What is nearer is taken to be in the same data centre, and the most that can be.
/// Limit: round trip of a connection that is not paced: 1 ms; past it: the connection is paced by the host's default.
const NEAR: Duration = Duration::from_millis(1);
/// Limit: setting of that round trip: 1 s; past it: the setting is refused.
const NEAR_MAX: Duration = Duration::from_secs(1);

/// TCP options of the proxy's sockets.
#[derive(Clone, Debug, Serialize)]
pub struct SocketConfig {
    /// Probes for peers that fell silent.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged.
    #[serde(serialize_with = "summary::maybe_duration")]
    pub user_timeout: Option<Duration>,
    /// Connections whose round trip is shorter are not paced though that is the host's default; zero: only those within
    /// the host are not.
    #[serde(serialize_with = "summary::duration")]
    pub unpaced_rtt: Duration,
}

/// Probes for peers that fell silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Silence before the first.
    #[serde(serialize_with = "summary::duration")]
    pub time: Duration,
    /// Silence between two.
    #[serde(serialize_with = "summary::duration")]
    pub interval: Duration,
    /// How many stay unanswered before the connection is given up.
    pub retries: u32,
}

impl SocketConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let range = || Duration::from_secs(1)..=Duration::from_secs(SECONDS_MAX);
        let three_minutes = Duration::from_secs(180);
        let keepalive = Keepalive {
            time: r.duration("KEEPALIVE_TIME", three_minutes, range()),
            interval: r.duration("KEEPALIVE_INTERVAL", three_minutes, range()),
            retries: r.number("KEEPALIVE_RETRIES", 9, 1..=PROBES_MAX),
        };
        let silence = keepalive.time + keepalive.interval * keepalive.retries;
        // The kernel takes milliseconds as an int.
        let user_timeout = silence.min(Duration::from_millis(0x7fff_ffff));
        Self {
            user_timeout: r.boolean("USER_TIMEOUT_ENABLED", false).then_some(user_timeout),
            unpaced_rtt: r.duration("WARREN_UNPACED_RTT", NEAR, Duration::ZERO..=NEAR_MAX),
            keepalive: r.boolean("KEEPALIVE_ENABLED", true).then_some(keepalive),
        }
    }
}
