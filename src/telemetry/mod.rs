//! Metrics, the access log, the log, traces, and the export of all of them.

pub mod access;
pub mod dns;
pub mod export;
pub mod filter;
pub mod line;
pub mod log;
pub mod metrics;
pub(crate) mod openmetrics;
mod otlp;
mod process;
pub mod queue;
pub(crate) mod series;
pub mod shards;
pub mod state_gauge;
pub mod target;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod traffic;
