//! Pure wire formats and decisions: this module uses no actors, sockets, spawning, clocks, environment or files.

pub mod addr;
pub mod ca;
pub mod config;
pub(crate) mod dns;
pub(crate) mod dump;
pub(crate) mod enrolment;
pub(crate) mod handover;
pub mod hbone;
pub mod identity;
pub mod labels;
pub(crate) mod local;
pub mod mesh;
pub mod outcome;
pub mod pb;
pub mod peer_text;
pub(crate) mod pprof;
#[cfg(test)]
pub(crate) mod property;
pub(crate) mod proxy_protocol;
pub mod rbac;
pub mod relay;
pub mod route;
pub(crate) mod socks5;
pub mod tls;
pub(crate) mod why;
pub(crate) mod xds;
pub mod zds;
