//! The options that every TLS connection of this process negotiates.

use std::sync::Arc;

use rustls::{
    SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    version::{TLS12, TLS13},
};

use crate::protocols::config::{Compliance, TlsConfig};

/// The one application protocol between proxies.
pub const ALPN_H2: &[u8] = b"h2";

static EVERY_GROUP: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768];
static POST_QUANTUM_GROUP: [&dyn SupportedKxGroup; 1] = [kx_group::X25519MLKEM768];
static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];
static NEWEST_AND_TLS12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The cipher suites and groups in order of preference: AES-256 before AES-128, and X25519 first. The key share of the
/// first group is the only one that is sent.
pub(super) fn provider(config: &TlsConfig) -> Arc<CryptoProvider> {
    let mut suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256];
    if offers_tls12(config) {
        suites.extend([
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ]);
    }
    let groups: &[&dyn SupportedKxGroup] =
        if is_post_quantum(config) { &POST_QUANTUM_GROUP } else { &EVERY_GROUP };
    Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}

/// The protocol versions, newest first.
pub(super) fn versions(config: &TlsConfig) -> &'static [&'static SupportedProtocolVersion] {
    if offers_tls12(config) { &NEWEST_AND_TLS12 } else { &NEWEST }
}

/// Whether TLS 1.2 is offered. X25519MLKEM768 exists in TLS 1.3 only, so a post-quantum configuration excludes TLS 1.2.
fn offers_tls12(config: &TlsConfig) -> bool {
    config.tls12 && !is_post_quantum(config)
}

fn is_post_quantum(config: &TlsConfig) -> bool {
    config.compliance == Some(Compliance::Pqc)
}
