//! The embedded mesh: nodes and pods as network namespaces on one machine, with nothing installed.

pub mod apps;
pub mod attack;
mod bench;
pub mod chaos;
pub mod cli;
pub mod cni;
pub mod control;
pub(crate) mod demo;
pub mod embedded;
mod gateway;
pub mod hosts;
pub mod net;
mod node;
pub mod process;
mod run;
mod show;
pub(crate) mod state;
pub mod testbed;
pub mod testing;
pub mod topology;
pub mod upgrade;
pub mod valve;
