//! TCP options of the proxy's sockets (docs/spec/dataplane.md 1.2).

use std::time::Duration;

use serde::Serialize;

use super::{
    reader::{Reader, defaults},
    summary,
    var::Var,
};

const KEEPALIVE_ENABLED: Var = Var::flag("KEEPALIVE_ENABLED", "true", "TCP keepalive probes are sent.");
const KEEPALIVE_TIME: Var = Var::duration("KEEPALIVE_TIME", "180s", "Silence before the first probe.");
const KEEPALIVE_INTERVAL: Var = Var::duration("KEEPALIVE_INTERVAL", "180s", "Silence between two probes.");
const KEEPALIVE_RETRIES: Var =
    Var::number("KEEPALIVE_RETRIES", "9", "Probes that stay unanswered before the connection is given up.");
const USER_TIMEOUT_ENABLED: Var = Var::flag(
    "USER_TIMEOUT_ENABLED",
    "false",
    "`TCP_USER_TIMEOUT` is set to the time that all probes take together. It needs keepalive.",
);
const UNPACED_RTT: Var = Var::duration(
    "WARREN_UNPACED_RTT",
    "1ms",
    "Connections whose handshake took less are not paced where the host's default congestion control is BBR. With `0` \
     only those within the host are not.",
);

/// The longest time and interval, in seconds, and the most probes Linux takes (tcp(7), include/net/tcp.h).
/// Limit: a keepalive time as a setting: 32,767 s; past it: the setting is refused.
const SECONDS_MAX: u64 = 32_767;
/// Limit: keepalive probes as a setting: 127; past it: the setting is refused.
const PROBES_MAX: u32 = 127;

/// The longest round trip that can count as one within a data centre.
/// Limit: setting of that round trip: 1 s; past it: the setting is refused.
const NEAR_MAX: Duration = Duration::from_secs(1);

/// TCP options of the proxy's sockets.
#[derive(Clone, Debug, Serialize)]
pub struct SocketConfig {
    /// Probes for peers that fell silent.
    pub keepalive: Option<Keepalive>,
    /// Connections whose round trip is shorter are not paced though that is the host's default; zero: only those within
    /// the host are not.
    #[serde(serialize_with = "summary::duration")]
    pub unpaced_rtt: Duration,
}

/// Probes for peers that fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Silence before the first.
    #[serde(serialize_with = "summary::duration")]
    pub time: Duration,
    /// Silence between two.
    #[serde(serialize_with = "summary::duration")]
    pub interval: Duration,
    /// How many stay unanswered before the connection is given up.
    pub retries: u32,
    /// How long sent data may stay unacknowledged.
    #[serde(serialize_with = "summary::maybe_duration")]
    pub user_timeout: Option<Duration>,
}

impl Default for SocketConfig {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl SocketConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let range = || Duration::from_secs(1)..=Duration::from_secs(SECONDS_MAX);
        let is_on = r.boolean(&KEEPALIVE_ENABLED);
        let time = r.duration(&KEEPALIVE_TIME, range());
        let interval = r.duration(&KEEPALIVE_INTERVAL, range());
        let retries = r.number(&KEEPALIVE_RETRIES, 1..=PROBES_MAX);
        // The kernel takes milliseconds as an int.
        let silence = (time + interval * retries).min(Duration::from_millis(0x7fff_ffff));
        let user_timeout = r.boolean(&USER_TIMEOUT_ENABLED).then_some(silence);
        Self {
            keepalive: is_on.then_some(Keepalive { time, interval, retries, user_timeout }),
            unpaced_rtt: r.duration(&UNPACED_RTT, Duration::ZERO..=NEAR_MAX),
        }
    }
}
