//! Whole trees on tokio's paused clock.

mod address;
mod chaos;
mod dynamic;
mod faults;
mod pitfalls;
mod record;
mod simulation;
mod support;
mod tree;
mod watchdog;
