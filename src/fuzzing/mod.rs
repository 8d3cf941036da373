//! Targets of the fuzzer. Each takes any bytes, runs a part of the proxy on them, and panics if a promise is broken.
//!
//! `fuzz/` has a program for each target, and the tests here replay the inputs that are kept there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a target says that a promise is broken"
)]

mod adopted;
mod certs;
mod connect;
mod dns;
mod frames;
mod http2;
mod input;
mod otlp;
mod policy;
mod preface;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod wire;
mod xds;
mod zds;

pub use self::{
    adopted::adopted,
    certs::{certificates, crl},
    connect::connect,
    dns::{dns_answer, dns_query},
    http2::{h2_client, h2_server},
    otlp::otlp,
    policy::policy,
    preface::{proxy_protocol, socks5},
    settings::settings,
    tls::{tls_handshake, tls_records},
    xds::xds,
    zds::zds,
};
