//! The actors: each owns a resource and is a place of restart.

pub mod admin;
pub(crate) mod config_dump;
mod console;
pub(crate) mod control;
pub(crate) mod crl;
pub(crate) mod handover;
pub(crate) mod health;
mod live;
mod page;
pub(crate) mod pods;
pub(crate) mod quarantine;
pub(crate) mod shards;
pub mod telemetry;
pub mod tree;
mod why;

use std::time::Duration;

/// An actor whose handler runs for longer is killed: handlers only start tasks, which takes microseconds. Actors whose
/// handlers take longer, or whose end costs connections, have limits of their own or none.
/// Limit: one message in an actor that answers at once: 500 ms; past it: the watchdog has the actor killed.
pub(crate) const HUNG_AFTER: Duration = Duration::from_millis(500);
