//! How the proxy stops (docs/spec/dataplane.md 4.6).

use std::time::Duration;

use serde::Serialize;

use super::{reader::Reader, summary, var::Var};

const DEADLINE: Var = Var::duration(
    "CONNECTION_TERMINATION_DEADLINE",
    "that of the next variable",
    "How long live connections may go on after the order to stop.",
);
const GRACE_PERIOD: Var = Var::number(
    "TERMINATION_GRACE_PERIOD_SECONDS",
    "",
    "The kubelet's patience, in seconds. The deadline is 5 s less if it is over 10 s, else 1 s less and at least 1 s. \
     Without either variable the deadline is 5 s.",
);

/// The longest drain deadline that a setting may give, in seconds: one year.
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
        let range = Duration::ZERO..=Duration::from_secs(MOST_SECONDS);
        let deadline = r.maybe_duration(&DEADLINE, range);
        let by_grace = r.maybe_number(&GRACE_PERIOD, 0..=MOST_SECONDS).map(|grace| {
            // Leaves time to close what is left before the kubelet kills the process.
            let seconds = if grace > 10 { grace - 5 } else { grace.saturating_sub(1).max(1) };
            Duration::from_secs(seconds)
        });
        Self { deadline: deadline.or(by_grace).unwrap_or(Duration::from_secs(5)) }
    }
}
