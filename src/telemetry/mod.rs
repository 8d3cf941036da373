//! Metrics, the access log, the log, traces, and the export of all of them.

pub(crate) mod access;
pub(crate) mod buffers;
pub(crate) mod dns;
pub mod events;
pub mod export;
pub(crate) mod filter;
pub(crate) mod handover;
pub(crate) mod line;
pub mod log;
pub mod metrics;
pub(crate) mod openmetrics;
mod otlp;
pub(crate) mod pod_series;
mod process;
pub(crate) mod queue;
pub(crate) mod refusals;
pub(crate) mod series;
pub mod setup;
pub(crate) mod shards;
pub(crate) mod state_gauge;
pub(crate) mod target;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod traffic;

#[cfg(any(test, fuzzing))]
pub(crate) use otlp::collector_says;
