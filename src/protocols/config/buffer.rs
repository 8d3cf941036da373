//! Memory for bytes that wait for their readers (docs/operations.md).

use serde::Serialize;

use super::{reader::Reader, value::number, var::Var};

const BUDGET: Var = Var::new(
    "WARREN_BUFFER_BUDGET",
    "number",
    "reckoned from the memory",
    "Bytes that all streams of tunnels together may hold for readers that do not read. As it is used up, such streams get \
     smaller windows. Without it: an eighth of the memory limit of the cgroup; without a limit an eighth of the machine's \
     memory, at most 1 GiB. At least 64 MiB.",
);

/// The smallest default.
/// No limit: a lower bound of a default.
const LEAST_DEFAULT: u64 = 64 << 20;
/// The largest default where nothing limits the memory.
/// Limit: WARREN_BUFFER_BUDGET that nobody has set, where the cgroup has no limit: 1 GiB; past it: it is that.
const MOST_DEFAULT: u64 = 1 << 30;
/// The part of the memory that is the default, as a divisor.
/// Limit: WARREN_BUFFER_BUDGET that nobody has set: an eighth of the memory; past it: it is that.
const DEFAULT_PART: u64 = 8;
/// The smallest budget that can be set.
/// Limit: WARREN_BUFFER_BUDGET, at least: 1 MiB; past it: the setting is refused.
const LEAST: u64 = 1 << 20;

/// Memory for bytes that wait for their readers.
#[derive(Clone, Debug, Serialize)]
pub struct BufferConfig {
    /// Bytes that all streams of tunnels together may hold.
    pub budget: u64,
}

impl BufferConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let set = r.raw(&BUDGET).and_then(|text| {
            number(text, &(LEAST..=u64::MAX)).map_err(|reason| r.reject(&BUDGET, reason)).ok()
        });
        let memory = r.inputs.memory;
        let default = match memory.limit {
            Some(limit) => limit / DEFAULT_PART,
            None => (memory.machine / DEFAULT_PART).min(MOST_DEFAULT),
        };
        Self { budget: set.unwrap_or(default.max(LEAST_DEFAULT)) }
    }
}

#[cfg(test)]
mod tests;
