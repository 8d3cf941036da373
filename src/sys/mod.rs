//! System calls: network namespaces and sockets. The only unsafe code of the crate is here.
#![allow(unsafe_code)]

pub mod cputime;
pub mod fdpass;
pub mod interface;
#[cfg(feature = "lab")]
pub mod lab;
pub mod limits;
pub mod memory;
pub mod netns;
pub mod netns_fingerprint;
pub mod pacing;
pub mod probe;
pub mod rule_events;
pub mod shared_socket;
pub mod socket;
pub mod splice;
