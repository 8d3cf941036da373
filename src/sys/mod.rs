//! System calls: network namespaces and sockets. The only unsafe code of the crate is here.
#![allow(unsafe_code)]

pub(crate) mod cputime;
pub mod fdpass;
pub(crate) mod interface;
#[cfg(feature = "lab")]
pub mod lab;
pub mod limits;
pub(crate) mod memory;
pub(crate) mod netns;
pub(crate) mod netns_fingerprint;
pub(crate) mod pacing;
pub(crate) mod probe;
pub(crate) mod rule_events;
pub(crate) mod shared_socket;
pub(crate) mod socket;
pub(crate) mod splice;
