//! Profiles of this process: where the threads are, and what the memory is used for. Nothing is set up, held or counted
//! until a profile is asked for.

pub(crate) mod cpu;
pub mod heap;
mod stack;
pub(crate) mod symbols;
