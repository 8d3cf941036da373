//! System calls, among them those for network namespaces and sockets. Only this module contains unsafe code.
#![allow(unsafe_code)]

pub mod cgroup;
pub(crate) mod coarse_clock;
pub mod confinement;
pub(crate) mod cputime;
pub(crate) mod descriptors;
pub mod fdpass;
pub(crate) mod handed_socket;
pub(crate) mod interface;
#[cfg(feature = "lab")]
pub mod lab;
pub mod limits;
pub(crate) mod memory;
pub(crate) mod netns;
pub(crate) mod netns_fingerprint;
pub(crate) mod pacing;
pub(crate) mod privileges;
pub(crate) mod probe;
pub mod profiler;
pub(crate) mod rule_events;
mod seccomp;
pub(crate) mod shared_socket;
pub(crate) mod socket;
pub(crate) mod splice;
pub(crate) mod terminal;
