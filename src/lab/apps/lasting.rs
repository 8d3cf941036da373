//! Streams that last: each has a habit, checks every byte, and notes how long it stood still in given windows of time.

mod client;
mod habit;
mod pattern;
mod server;
mod stalls;

pub(crate) use self::{
    client::{Lasting, Plan, Report, start},
    habit::Habit,
    server::{Gate, serve},
    stalls::Windows,
};

#[cfg(test)]
mod tests;
