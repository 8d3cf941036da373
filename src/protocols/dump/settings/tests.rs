#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::settings;
use crate::protocols::config::{Inputs, parse};

/// The types into which Kiali decodes the settings. One mismatch loses the whole dump.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KialiConfig {
    admin_addr: Localhost,
    dns_proxy_addr: Localhost,
    stats_addr: SocketAddr,
    readiness_addr: SocketAddr,
    inbound_addr: String,
    inbound_plaintext_addr: String,
    outbound_addr: String,
    xds_root_cert: Option<File>,
    ca_root_cert: Option<File>,
    xds_address: Option<String>,
    ca_address: Option<String>,
    cluster_domain: String,
    cluster_id: String,
    local_node: Option<String>,
    network: String,
    proxy_mode: String,
    proxy_args: String,
    inpod_uds: String,
    alt_xds_hostname: Option<String>,
    alt_ca_hostname: Option<String>,
    socks5_addr: Option<String>,
    proxy_workload_information: Option<String>,
    require_original_source: Option<String>,
    secret_ttl: Duration,
    self_termination_deadline: Duration,
    pool_unused_release_timeout: Duration,
    window_size: i64,
    connection_window_size: i64,
    frame_size: i64,
    num_worker_threads: i64,
    packet_mark: Option<i64>,
    pool_max_streams_per_conn: i64,
    illegal_ports: Vec<u16>,
    proxy: bool,
    dns_proxy: bool,
    fake_ca: bool,
    fake_self_inbound: bool,
    inpod_port_reuse: bool,
    xds_on_demand: bool,
    proxy_metadata: BTreeMap<String, String>,
    xds_headers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Localhost {
    #[serde(rename = "Localhost")]
    localhost: (bool, u16),
}

#[derive(Debug, Deserialize)]
struct SocketAddr {
    #[serde(rename = "SocketAddr")]
    addr: String,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(rename = "File")]
    path: String,
}

#[derive(Debug, Deserialize)]
struct Duration {
    secs: u64,
    nanos: u32,
}

#[test]
fn kiali_decodes_the_settings_and_no_secret_is_among_them() {
    let env = [
        ("NODE_NAME", "n1"),
        ("AUTH_TOKEN", "top-secret"),
        ("XDS_HEADER_authorization", "Bearer hidden"),
        ("ISTIO_META_SHARD", "blue"),
        ("ISTIO_METAJSON_PASSWORD", "\"buried\""),
        ("UNSTABLE_ENABLE_SOCKS5", "true"),
    ];
    let vars = env.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let file_exists = &|_: &str| false;
    let inputs = Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 2,
        memory: Default::default(),
        file_exists,
        fake_ca_allowed: false,
    };
    let config = parse(&inputs).unwrap();
    let dump = settings(&config);
    let text = dump.to_string();
    for secret in ["top-secret", "hidden", "buried"] {
        assert!(!text.contains(secret), "{text}");
    }
    let seen: KialiConfig = serde_json::from_value(dump).unwrap();
    assert_eq!(seen.stats_addr.addr, "[::]:15020");
    assert_eq!((seen.admin_addr.localhost, seen.local_node.as_deref()), ((true, 15000), Some("n1")));
    assert_eq!(seen.socks5_addr.as_deref(), Some("127.0.0.1:15080"));
    assert_eq!(seen.illegal_ports, [15008, 15006, 15001, 15080]);
    assert_eq!(seen.proxy_metadata["SHARD"], "blue");
    assert_eq!(seen.xds_headers, ["authorization"]);
    assert_eq!(seen.xds_root_cert.unwrap().path, "./var/run/secrets/istio/root-cert.pem");
}
