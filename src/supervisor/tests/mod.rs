//! Whole trees on tokio's paused clock.

mod address;
mod chaos;
mod dynamic;
mod faults;
mod pitfalls;
mod support;
mod tree;
