//! How the proxy stops (docs/spec/dataplane.md 4.6).

use std::time::Duration;

use serde::Serialize;

use super::{reader::Reader, summary};

/// Nobody waits longer than a year.
/// Limit: a drain's deadline as a setting: 365 days; past it: the setting is refused.
const MOST_SECONDS: u64 = 365 * 24 * 60 * 60;

/// How the proxy stops.
#[derive(Clone, Debug, Serialize)]
pub struct DrainConfig {
    /// How long connections may go on after the order to stop.
    #[serde(serialize_with = "summary::duration")]
    pub deadline: Duration,
}

impl DrainConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let rule = r.raw("TERMINATION_GRACE_PERIOD_SECONDS").map(|_| {
            let grace = r.number("TERMINATION_GRACE_PERIOD_SECONDS", 0, 0..=MOST_SECONDS);
            // Leaves time to close what is left before the kubelet kills the process.
            let seconds = if grace > 10 { grace - 5 } else { grace.saturating_sub(1).max(1) };
            Duration::from_secs(seconds)
        });
        let default = rule.unwrap_or(Duration::from_secs(5));
        let range = Duration::ZERO..=Duration::from_secs(MOST_SECONDS);
        Self { deadline: r.duration("CONNECTION_TERMINATION_DEADLINE", default, range) }
    }
}
