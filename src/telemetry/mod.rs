//! Metrics, access log, logging, and what is exported of all that.

pub mod access;
pub mod counters;
pub mod dns;
pub mod export;
pub mod filter;
pub mod line;
pub mod log;
pub mod metrics;
pub mod openmetrics;
mod otlp;
mod process;
pub mod queue;
pub mod shards;
pub mod state_gauge;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod traffic;
