mod contradictions;
mod ports;
mod stopping;
mod tolerated;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

/// What `vars` give on a machine of 8 processors where only `/exists` is a file.
fn read(vars: &[(&str, &str)]) -> Result<Config, Vec<Invalid>> {
    read_with(vars, None, &|path| path == "/exists")
}

fn read_with(
    vars: &[(&str, &str)],
    mesh_file: Option<&str>,
    file_exists: &dyn Fn(&str) -> bool,
) -> Result<Config, Vec<Invalid>> {
    let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    parse(&Inputs {
        vars: &vars,
        mesh_file,
        cores: 8,
        memory: Default::default(),
        file_exists,
        fake_ca_allowed: false,
    })
}

fn at(config: &Config, path: &str) -> Value {
    let value = serde_json::to_value(config).unwrap();
    value.pointer(path).unwrap_or_else(|| panic!("no {path} in {value}")).clone()
}

#[test]
fn without_any_variable_everything_has_the_contracts_default() {
    let config = read(&[]).unwrap();
    let upstream = json!({
        "address": "https://localhost:15012", "alt_hostname": null, "headers": [],
        "roots": {"File": "./var/run/secrets/istio/root-cert.pem"},
    });
    let want = json!({
        "node": {
            "mode": "Shared", "node_name": null, "pod_name": null, "pod_namespace": null, "service_account": null,
            "instance_ip": "1.1.1.1", "network": "", "cluster_id": "Kubernetes", "cluster_domain": "cluster.local",
            "trust_domain": "cluster.local", "istio_version": "unknown",
            "metadata": ["INSTANCE_IPS", "NAME", "NAMESPACE", "NODE_NAME"],
        },
        "control": {
            "xds": {"upstream": upstream, "on_demand": false, "local": null},
            "ca": {"upstream": upstream, "secret_ttl": "24h"},
            "token": "None",
        },
        "inpod": {
            "uds": "/var/run/ztunnel/ztunnel.sock", "handover_uds": "/var/run/ztunnel/warren.sock", "port_reuse": true,
            "packet_mark": 1337,
        },
        "listen": {
            "proxy": true, "ipv6_enabled": true, "orig_src": null, "localhost_app_tunnel": true, "baggage": true,
            "ports": {"outbound": 15001, "plaintext": 15006, "hbone": 15008, "socks5": null, "dns": "localhost:15053"},
        },
        "tunnel": {
            "http2": {
                "stream_window": 4_194_304, "connection_window": 16_777_216, "frame_size": 1_048_576,
                "early_data": true,
            },
            "buffers": {"budget": 67_108_864}, "pool": {"max_streams": 100, "unused_release": "5m"}, "join": {"enabled": true},
            "tls": {"tls12": false, "compliance": null, "crl_path": null, "crl_required": false},
        },
        "policy": {"missing": "ignore"},
        "socket": {
            "keepalive": {"time": "3m", "interval": "3m", "retries": 9, "user_timeout": null}, "unpaced_rtt": "1ms",
        },
        "drain": {"deadline": "5s"},
        "keeper": {"uds": "/var/run/ztunnel/keeper.sock", "hold": "15s"},
        "dns": {"enabled": true, "address": "localhost:15053", "preferred_namespace": null, "resolv_conf": "/etc/resolv.conf"},
        "timeouts": {
            "connect": "10s", "tls_handshake": "5s", "h2_settings": "5s", "connect_response": "20s",
            "workload": "5s", "certificate": "10s", "policy": "5s", "ping_interval": "10s", "ping": "20s",
        },
        "process": {
            "log": {"filter": "ractor=off,info", "format": "Plain", "policy_info": false},
            "admin": {"admin_port": 15000, "stats_port": 15020, "readiness_port": 15021},
            "shards": {"count": 2},
            "chaos": {"enabled": false, "handover_fault": null}, "seccomp": "enforce",
            "otlp": {"traces": null, "logs": null, "metrics": null, "resource": []},
        },
    });
    assert_eq!(serde_json::to_value(&config).unwrap(), want);
    assert_eq!(config.warnings, []);
}

/// Every variable with a value that is taken, where that shows, and as what.
pub(super) fn good() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    vec![
        ("ENABLE_PROXY", "false", "/listen/proxy", json!(false)),
        ("NODE_NAME", "n", "/node/node_name", json!("n")),
        ("NODE_NAME", "", "/node/node_name", json!(null)),
        ("POD_NAME", "p", "/node/pod_name", json!("p")),
        ("POD_NAMESPACE", "ns", "/node/pod_namespace", json!("ns")),
        ("SERVICE_ACCOUNT", "sa", "/node/service_account", json!("sa")),
        ("TRUST_DOMAIN", "td", "/node/trust_domain", json!("td")),
        ("INSTANCE_IP", "fd00::1", "/node/instance_ip", json!("fd00::1")),
        ("NETWORK", "net", "/node/network", json!("net")),
        ("ISTIO_META_CLUSTER_ID", "c1", "/node/cluster_id", json!("c1")),
        ("CLUSTER_ID", "c2", "/node/cluster_id", json!("c2")),
        ("CLUSTER_DOMAIN", "Corp.example.", "/node/cluster_domain", json!("corp.example")),
        ("ISTIO_META_ISTIO_VERSION", "1.30", "/node/istio_version", json!("1.30")),
        ("PREFERED_SERVICE_NAMESPACE", "ns", "/dns/preferred_namespace", json!("ns")),
        ("WARREN_RESOLV_CONF", "/r", "/dns/resolv_conf", json!("/r")),
        ("XDS_ADDRESS", "", "/control/xds/upstream", json!(null)),
        ("XDS_ADDRESS", "d:1", "/control/xds/upstream/address", json!("https://d:1")),
        ("XDS_ADDRESS", "https://d", "/control/xds/upstream/address", json!("https://d:443")),
        ("XDS_ADDRESS", "https://[::1]:9/", "/control/xds/upstream/address", json!("https://[::1]:9")),
        (
            "KUBERNETES_SERVICE_HOST",
            "",
            "/control/xds/upstream/address",
            json!("https://istiod.istio-system.svc:15012"),
        ),
        (
            "KUBERNETES_SERVICE_HOST",
            "x",
            "/control/ca/upstream/address",
            json!("https://istiod.istio-system.svc:15012"),
        ),
        ("XDS_ROOT_CA", "SYSTEM", "/control/xds/upstream/roots", json!("System")),
        ("XDS_ROOT_CA", "/late", "/control/xds/upstream/roots", json!({"File": "/late"})),
        ("XDS_ROOT_CA", PEM, "/control/xds/upstream/roots", json!({"Inline": "<59 bytes>"})),
        ("ALT_XDS_HOSTNAME", "alt.x", "/control/xds/upstream/alt_hostname", json!("alt.x")),
        ("XDS_HEADER_X_Env", "prod", "/control/xds/upstream/headers", json!(["x_env"])),
        ("LOCAL_XDS_PATH", "/x.yaml", "/control/xds/local", json!({"File": "/x.yaml"})),
        ("LOCAL_XDS", "{}", "/control/xds/local", json!({"Inline": "<2 bytes>"})),
        ("CA_ADDRESS", "ca:1", "/control/ca/upstream/address", json!("https://ca:1")),
        ("CA_ROOT_CA", "/exists", "/control/ca/upstream/roots", json!({"File": "/exists"})),
        ("ALT_CA_HOSTNAME", "alt.x", "/control/ca/upstream/alt_hostname", json!("alt.x")),
        ("CA_HEADER_k", "v", "/control/ca/upstream/headers", json!(["k"])),
        ("SECRET_TTL", "1h30m", "/control/ca/secret_ttl", json!("1h30m")),
        ("CRL_PATH", "/crl", "/tunnel/tls/crl_path", json!("/crl")),
        ("CRL_PATH", "", "/tunnel/tls/crl_path", json!(null)),
        ("WARREN_CRL_REQUIRED", "false", "/tunnel/tls/crl_required", json!(false)),
        ("AUTH_TOKEN", "/exists", "/control/token", json!({"File": "/exists"})),
        ("AUTH_TOKEN", "hush", "/control/token", json!({"Value": "<redacted>"})),
        ("AUTH_TOKEN", "", "/control/token", json!("None")),
        ("INPOD_UDS", "/s", "/inpod/uds", json!("/s")),
        ("INPOD_UDS", "/d/s", "/inpod/handover_uds", json!("/d/warren.sock")),
        ("INPOD_UDS", "s", "/inpod/handover_uds", json!("warren.sock")),
        ("WARREN_HANDOVER_UDS", "/h", "/inpod/handover_uds", json!("/h")),
        ("WARREN_HANDOVER_UDS", "", "/inpod/handover_uds", json!(null)),
        ("WARREN_HANDOVER_UDS", "/h/s", "/keeper/uds", json!("/h/keeper.sock")),
        ("WARREN_HANDOVER_UDS", "", "/keeper/uds", json!(null)),
        ("WARREN_KEEPER_UDS", "/k", "/keeper/uds", json!("/k")),
        ("WARREN_KEEPER_UDS", "", "/keeper/uds", json!(null)),
        ("WARREN_KEEPER_HOLD", "1m", "/keeper/hold", json!("1m")),
        ("INPOD_PORT_REUSE", "false", "/inpod/port_reuse", json!(false)),
        ("PACKET_MARK", "7", "/inpod/packet_mark", json!(7)),
        ("ENABLE_ORIG_SRC", "true", "/listen/orig_src", json!(true)),
        ("ENABLE_ORIG_SRC", "false", "/listen/orig_src", json!(false)),
        ("IPV6_ENABLED", "false", "/listen/ipv6_enabled", json!(false)),
        ("LOCALHOST_APP_TUNNEL", "false", "/listen/localhost_app_tunnel", json!(false)),
        ("ENABLE_RESPONSE_BAGGAGE", "false", "/listen/baggage", json!(false)),
        ("UNSTABLE_ENABLE_SOCKS5", "true", "/listen/ports/socks5", json!(15080)),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "1", "/tunnel/pool/max_streams", json!(1)),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "0", "/tunnel/pool/unused_release", json!("0s")),
        ("HTTP2_STREAM_WINDOW_SIZE", "2147483647", "/tunnel/http2/stream_window", json!(2_147_483_647)),
        ("WARREN_BUFFER_BUDGET", "1048576", "/tunnel/buffers/budget", json!(1_048_576)),
        ("HTTP2_CONNECTION_WINDOW_SIZE", "65535", "/tunnel/http2/connection_window", json!(65_535)),
        ("HTTP2_FRAME_SIZE", "16384", "/tunnel/http2/frame_size", json!(16_384)),
        ("KEEPALIVE_ENABLED", "false", "/socket/keepalive", json!(null)),
        ("KEEPALIVE_TIME", "90", "/socket/keepalive/time", json!("1m30s")),
        ("KEEPALIVE_INTERVAL", "1s", "/socket/keepalive/interval", json!("1s")),
        ("KEEPALIVE_RETRIES", "3", "/socket/keepalive/retries", json!(3)),
        ("WARREN_UNPACED_RTT", "0", "/socket/unpaced_rtt", json!("0s")),
        ("USER_TIMEOUT_ENABLED", "true", "/socket/keepalive/user_timeout", json!("30m")),
        ("CONNECTION_TERMINATION_DEADLINE", "500ms", "/drain/deadline", json!("500ms")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30", "/drain/deadline", json!("25s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "11", "/drain/deadline", json!("6s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "10", "/drain/deadline", json!("9s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "1", "/drain/deadline", json!("1s")),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "0", "/drain/deadline", json!("1s")),
        ("RUST_LOG", "info,access=debug", "/process/log/filter", json!("access=debug,ractor=off,info")),
        ("LOG_FORMAT", "json", "/process/log/format", json!("Json")),
        ("AUTHZ_POLICY_INFO_LOGGING", "true", "/process/log/policy_info", json!(true)),
        ("COMPLIANCE_POLICY", "pqc", "/tunnel/tls/compliance", json!("Pqc")),
        ("COMPLIANCE_POLICY", "", "/tunnel/tls/compliance", json!(null)),
        ("TLS12_ENABLED", "true", "/tunnel/tls/tls12", json!(true)),
        ("ISTIO_META_DNS_CAPTURE", "TRUE", "/dns/enabled", json!(true)),
        ("ISTIO_META_DNS_CAPTURE", "off", "/dns/enabled", json!(false)),
        ("ISTIO_META_DNS_CAPTURE", "", "/dns/enabled", json!(false)),
        ("ISTIO_META_DNS_PROXY_ADDR", "127.0.0.2:53", "/dns/address", json!("127.0.0.2:53")),
        ("ISTIO_META_DNS_PROXY_ADDR", "localhost:53", "/dns/address", json!("localhost:53")),
        ("WARREN_CHAOS", "true", "/process/chaos/enabled", json!(true)),
        ("WARREN_HANDOVER_FAULT", "old:offered", "/process/chaos/handover_fault", json!(null)),
        ("WARREN_SECCOMP", "log", "/process/seccomp", json!("log")),
        ("WARREN_EARLY_DATA", "false", "/tunnel/http2/early_data", json!(false)),
        ("WARREN_MISSING_POLICY", "deny", "/policy/missing", json!("deny")),
        ("WARREN_LOCAL_JOIN", "false", "/tunnel/join/enabled", json!(false)),
        ("WARREN_CONNECT_TIMEOUT", "1ms", "/timeouts/connect", json!("1ms")),
        ("WARREN_TLS_HANDSHAKE_TIMEOUT", "1", "/timeouts/tls_handshake", json!("1s")),
        ("WARREN_H2_SETTINGS_TIMEOUT", "1", "/timeouts/h2_settings", json!("1s")),
        ("WARREN_CONNECT_RESPONSE_TIMEOUT", "1", "/timeouts/connect_response", json!("1s")),
        ("WARREN_WORKLOAD_TIMEOUT", "1", "/timeouts/workload", json!("1s")),
        ("WARREN_CERTIFICATE_TIMEOUT", "1", "/timeouts/certificate", json!("1s")),
        ("WARREN_POLICY_TIMEOUT", "1", "/timeouts/policy", json!("1s")),
        ("WARREN_PING_INTERVAL", "1", "/timeouts/ping_interval", json!("1s")),
        ("WARREN_PING_TIMEOUT", "1h", "/timeouts/ping", json!("1h")),
        ("INPOD_ENABLED", "nonsense", "/inpod/uds", json!("/var/run/ztunnel/ztunnel.sock")),
        ("XDS_UNKNOWN", "nonsense", "/control/xds/on_demand", json!(false)),
    ]
}

#[test]
fn each_variable_sets_its_field() {
    for (name, value, path, want) in good() {
        let config = read(&[(name, value)]).unwrap_or_else(|e| panic!("{name}={value}: {e:?}"));
        assert_eq!(at(&config, path), want, "{name}={value}");
    }
}

/// Variables with values that are refused.
const BAD: &[(&str, &[&str])] = &[
    ("PROXY_MODE", &["both", "Shared"]),
    ("ENABLE_PROXY", &["", "yes", "True", "1", " true"]),
    ("POD_NAME", &["a~b"]),
    ("POD_NAMESPACE", &["a~b"]),
    ("TRUST_DOMAIN", &["a/b"]),
    ("INSTANCE_IP", &["localhost", "10.0.0.1:80", "1.1.1"]),
    ("ISTIO_META_CLUSTER_ID", &["a\nb"]),
    ("CLUSTER_ID", &["a\nb"]),
    ("CLUSTER_DOMAIN", &["a b", "..", "a/b", "."]),
    ("XDS_ADDRESS", &["http://d:1", "d:99999", "https://", "d:0", "d:", "a b", "d/path", "u:p@d", "d:1?q"]),
    ("CA_ADDRESS", &["", "http://d:1", "ftp://d"]),
    ("ALT_XDS_HOSTNAME", &["a b", "10.0.0.1"]),
    ("ALT_CA_HOSTNAME", &["a b"]),
    ("XDS_ON_DEMAND", &["x", "true"]),
    ("SECRET_TTL", &["", "0", "x", "-1s", "500ms", "99999d"]),
    ("FAKE_CA", &["x", "true"]),
    (
        "INPOD_UDS",
        &[
            "/a/path/that/is/longer/than/any/address/of/a/unix/socket/can/be/since/the/kernel/has/108/bytes/for/it/and/no/more",
        ],
    ),
    ("INPOD_PORT_REUSE", &["", "0"]),
    ("PACKET_MARK", &["", "0x539", "-1", "+1", "4294967296"]),
    ("ENABLE_ORIG_SRC", &["", "auto"]),
    ("IPV6_ENABLED", &["", "no"]),
    ("LOCALHOST_APP_TUNNEL", &["", "no"]),
    ("ENABLE_RESPONSE_BAGGAGE", &["", "no"]),
    ("UNSTABLE_ENABLE_SOCKS5", &["", "no"]),
    ("POOL_MAX_STREAMS_PER_CONNECTION", &["", "0", "65536", "many"]),
    ("POOL_UNUSED_RELEASE_TIMEOUT", &["", "x", "2d"]),
    ("HTTP2_STREAM_WINDOW_SIZE", &["", "0", "2147483648", "1e6"]),
    ("WARREN_BUFFER_BUDGET", &["", "1048575", "64Mi", "-1"]),
    ("HTTP2_CONNECTION_WINDOW_SIZE", &["", "65534", "2147483648"]),
    ("HTTP2_FRAME_SIZE", &["", "16383", "16777216"]),
    ("KEEPALIVE_ENABLED", &["", "no"]),
    ("KEEPALIVE_TIME", &["", "0", "999ms", "32768s"]),
    ("KEEPALIVE_INTERVAL", &["", "0", "32768s"]),
    ("KEEPALIVE_RETRIES", &["", "0", "128"]),
    ("USER_TIMEOUT_ENABLED", &["", "no"]),
    ("CONNECTION_TERMINATION_DEADLINE", &["", "soon", "366d"]),
    ("WARREN_KEEPER_HOLD", &["", "0s", "61s", "soon"]),
    ("TERMINATION_GRACE_PERIOD_SECONDS", &["", "30s", "-1"]),
    ("ZTUNNEL_WORKER_THREADS", &["", "x", "0%", "101%", "-1", "1025", "%"]),
    ("ZTUNNEL_RESOURCE_CPU_LIMIT", &["", "x", "-1", "1k"]),
    ("ZTUNNEL_RESOURCE_CPU_REQUEST", &["", "x"]),
    ("ZTUNNEL_CPU_LIMIT", &["", "1.5", "x"]),
    ("RUST_LOG", &["info,access=loud", "a=b=c"]),
    ("TLS12_ENABLED", &["", "no"]),
    ("ISTIO_META_DNS_PROXY_ADDR", &["15053", "localhost:x", "host:53", "127.0.0.1"]),
    ("WARREN_CHAOS", &["", "yes"]),
    ("WARREN_SECCOMP", &["on", "Enforce"]),
    ("OTEL_SDK_DISABLED", &["", "1"]),
    ("OTEL_TRACES_EXPORTER", &["zipkin", "console"]),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        &["c:4317", "ftp://c", "http://", "http://c:0", "http://u@c", "http://c/?q"],
    ),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", &["c", "http://c:99999"]),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &["http/json", "GRPC"]),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", &["http"]),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", &["0", "10s", "600001"]),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", &["-1"]),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", &["gzip"]),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", &["zstd"]),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &["/k"]),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &["/k"]),
    ("OTEL_LOGS_EXPORTER", &["file", "otlp,"]),
    ("OTEL_METRICS_EXPORTER", &["console"]),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &["c:4317"]),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &["c:4317"]),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", &["gzip"]),
    ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", &["/k"]),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", &["0"]),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", &["1000001"]),
    ("OTEL_BLRP_SCHEDULE_DELAY", &["1s"]),
    ("OTEL_METRIC_EXPORT_INTERVAL", &["99", "600001"]),
    ("OTEL_METRIC_EXPORT_TIMEOUT", &["0"]),
    ("OTEL_TRACES_SAMPLER", &["sometimes", "jaeger_remote", "parentbased_", "always_on "]),
    ("OTEL_TRACES_SAMPLER_ARG", &["x", "-0.1", "1.01", "NaN"]),
    ("OTEL_BSP_MAX_QUEUE_SIZE", &["0", "x", "1000001"]),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &["0"]),
    ("OTEL_BSP_SCHEDULE_DELAY", &["0", "5s"]),
    ("OTEL_RESOURCE_ATTRIBUTES", &["a", "=b", "a=%zz", "a=%4"]),
    ("OTEL_PROPAGATORS", &["b3", "none"]),
    ("WARREN_CONNECT_TIMEOUT", &["", "0", "2h"]),
    ("WARREN_TLS_HANDSHAKE_TIMEOUT", &["0"]),
    ("WARREN_H2_SETTINGS_TIMEOUT", &["0"]),
    ("WARREN_CONNECT_RESPONSE_TIMEOUT", &["0"]),
    ("WARREN_WORKLOAD_TIMEOUT", &["0"]),
    ("WARREN_CERTIFICATE_TIMEOUT", &["0"]),
    ("WARREN_POLICY_TIMEOUT", &["0"]),
    ("WARREN_PING_INTERVAL", &["0"]),
    ("WARREN_PING_TIMEOUT", &["0"]),
];

#[test]
fn a_bad_value_is_refused_by_name() {
    for (name, values) in BAD {
        for value in *values {
            let invalid = read(&[(name, value)]).expect_err(&format!("{name}={value} is taken"));
            assert_eq!(invalid.len(), 1, "{name}={value}: {invalid:?}");
            let shown = value.replace('\n', "\\n");
            let text = invalid[0].to_string();
            assert!(text.starts_with(&format!("invalid env var {name}={shown} (")), "{text}");
            assert!(text.ends_with(')') && !invalid[0].reason.is_empty(), "{text}");
        }
    }
}

#[test]
fn every_bad_value_is_reported_at_once() {
    let vars: Vec<(&str, &str)> = BAD.iter().map(|(name, values)| (*name, values[0])).collect();
    let names: Vec<String> = read(&vars).unwrap_err().into_iter().map(|i| i.name).collect();
    for (name, _) in &vars {
        assert_eq!(names.iter().filter(|n| n == name).count(), 1, "{name}");
    }
    assert_eq!(names.len(), vars.len());
}

#[test]
fn a_value_is_shown_on_one_line_and_shortened() {
    let long = format!("\u{1b}[2J{}", "x".repeat(500));
    let text = read(&[("PROXY_MODE", &long)]).unwrap_err()[0].to_string();
    assert!(text.starts_with("invalid env var PROXY_MODE=\\u{1b}[2Jxxx") && text.contains("x… ("), "{text}");
}

#[test]
fn a_secret_is_in_no_error_debug_or_summary() {
    let vars = [("AUTH_TOKEN", "hush-token"), ("XDS_HEADER_Auth", "hush-header"), ("CA_HEADER_x", "hush")];
    let more = [
        ("ISTIO_META_KEY", "hush-meta"),
        ("ISTIO_METAJSON_KEY2", "{\"a\":\"hush\"}"),
        ("PROXY_CONFIG", "proxyMetadata: {PASSWORD: hush-proxy}"),
        ("LOCAL_XDS", "hush: 1"),
    ];
    let config = read(&[&vars[..], &more].concat()).unwrap();
    assert!(!config.summary().contains("hush"), "{}", config.summary());
    assert!(!format!("{:?} {:?}", config.control.token, config.control.ca).contains("hush"));
    let TokenSource::Value(token) = &config.control.token else { panic!("{:?}", config.control.token) };
    assert_eq!(token.expose(), "hush-token");

    let bad = [
        ("AUTH_TOKEN", "hush\n"),
        ("XDS_HEADER_a b", "hush"),
        ("XDS_HEADER_c", "hush\n"),
        ("ISTIO_METAJSON_X", "hush"),
        ("PROXY_CONFIG", "proxyMetadata: [hush"),
    ];
    let invalid = read(&bad).unwrap_err();
    assert_eq!(invalid.len(), 4, "{invalid:?}");
    assert!(!format!("{invalid:?}").contains("hush"), "{invalid:?}");
}

#[test]
fn tokens_and_roots_are_files_when_they_exist() {
    let everything = |_: &str| true;
    let config = read_with(&[("XDS_ROOT_CA", "SYSTEM")], None, &everything).unwrap();
    assert_eq!(config.control.token, TokenSource::File("./var/run/secrets/tokens/istio-token".into()));
    assert_eq!(config.control.xds.upstream.unwrap().roots, RootSource::File("SYSTEM".into()));
}

#[test]
fn the_dedicated_mode_needs_a_workload_and_marks_no_packets() {
    let mode = ("PROXY_MODE", "dedicated");
    let config = read(&[mode, ("PROXY_WORKLOAD_INFO", "ns/web/sa")]).unwrap();
    let info = WorkloadInfo { namespace: "ns".into(), name: "web".into(), service_account: "sa".into() };
    assert_eq!(config.node.mode, ProxyMode::Dedicated(info));
    assert_eq!(config.inpod.packet_mark, None);
    let marked = read(&[mode, ("PROXY_WORKLOAD_INFO", "ns/web/sa"), ("PACKET_MARK", "3")]).unwrap();
    assert_eq!(marked.inpod.packet_mark, Some(3));
    // Without a mark the answers to a spoofed client would not come back.
    assert_eq!((config.listen.orig_src, marked.listen.orig_src), (Some(false), None));
    assert!(!config.node.serves_itself());
    for info in ["", "ns/web", "ns/web/sa/x", "ns//sa"] {
        let invalid = read(&[mode, ("PROXY_WORKLOAD_INFO", info)]).unwrap_err();
        assert_eq!((invalid.len(), &*invalid[0].name), (1, "PROXY_WORKLOAD_INFO"), "{info}");
    }
    assert_eq!(read(&[mode]).unwrap_err().len(), 1);
    assert_eq!(read(&[("PROXY_WORKLOAD_INFO", "junk")]).unwrap().node.mode, ProxyMode::Shared);
}

#[test]
fn settings_that_do_not_go_with_the_mode_are_named() {
    let names = |vars: &[(&str, &str)]| {
        let warnings = read(vars).unwrap().warnings;
        warnings.iter().map(|warning| warning.name.clone()).collect::<Vec<_>>()
    };
    let (mode, info) = (("PROXY_MODE", "dedicated"), ("PROXY_WORKLOAD_INFO", "ns/web/sa"));
    assert_eq!(names(&[info]), ["PROXY_WORKLOAD_INFO"]);
    assert_eq!(names(&[mode, info, ("INPOD_UDS", "/a.sock")]), ["INPOD_UDS"]);
    assert_eq!(names(&[mode, info, ("ENABLE_ORIG_SRC", "true")]), ["ENABLE_ORIG_SRC"]);
    assert!(names(&[mode, info, ("ENABLE_ORIG_SRC", "true"), ("PACKET_MARK", "1337")]).is_empty());
}

#[test]
fn a_pod_that_knows_itself_serves_itself() {
    let own = [("POD_NAME", "p"), ("POD_NAMESPACE", "ns"), ("SERVICE_ACCOUNT", "sa")];
    assert!(read(&own).unwrap().node.serves_itself());
    for missing in 0..3 {
        let vars: Vec<_> = own.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, v)| *v).collect();
        assert!(!read(&vars).unwrap().node.serves_itself());
    }
}

#[test]
fn threads_follow_the_contract() {
    const LIMIT: &str = "ZTUNNEL_RESOURCE_CPU_LIMIT";
    const REQUEST: &str = "ZTUNNEL_RESOURCE_CPU_REQUEST";
    const THREADS: &str = "ZTUNNEL_WORKER_THREADS";
    const CONCURRENCY: &str = "PROXY_CONFIG";
    for (vars, want) in [
        (&[(THREADS, "5")][..], 5),
        (&[(THREADS, "0")], 8),
        (&[(THREADS, "0"), (LIMIT, "2500m")], 3),
        (&[(THREADS, "30%")], 3),
        (&[(THREADS, "1%")], 1),
        (&[(THREADS, "50%"), (LIMIT, "20")], 10),
        (&[(THREADS, "5"), (CONCURRENCY, "concurrency: 7")], 5),
        (&[(CONCURRENCY, "concurrency: 7")], 7),
        (&[(CONCURRENCY, "concurrency: 0")], 8),
        (&[(CONCURRENCY, "concurrency: 0"), ("ZTUNNEL_CPU_LIMIT", "3")], 3),
        (&[(LIMIT, "500m")], 1),
        (&[(LIMIT, "1.5"), (REQUEST, "3")], 3),
        (&[(LIMIT, "4"), (REQUEST, "3")], 4),
        (&[(REQUEST, "3")], 3),
        (&[(REQUEST, "200m")], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "100")], 25),
        (&[("ZTUNNEL_CPU_LIMIT", "9")], 3),
        (&[("ZTUNNEL_CPU_LIMIT", "1")], 2),
        (&[("ZTUNNEL_CPU_LIMIT", "0"), (LIMIT, "0")], 2),
    ] {
        assert_eq!(read(vars).unwrap().process.shards.count, want, "{vars:?}");
    }
}

#[test]
fn proxy_configuration_comes_from_the_mesh_file_then_the_variable_then_the_environment() {
    let mesh = "trustDomain: x\ndefaultConfig:\n  discoveryAddress: mesh:1\n  statsPort: 1\n  proxyAdminPort: '2'\n  \
                unknown: [1]\n  concurrency: null\n  proxyMetadata:\n    ISTIO_META_A: mesh\n    B: mesh\n    D: true\n";
    let vars = [
        (
            "PROXY_CONFIG",
            "{\"statsPort\": 3, \"proxyMetadata\": {\"ISTIO_META_B\": \"variable\", \"C\": \"variable\"}}",
        ),
        ("ISTIO_META_C", "environment"),
    ];
    let config = read_with(&vars, Some(mesh), &|_| false).unwrap();
    let (admin, node) = (&config.process.admin, &config.node);
    assert_eq!((admin.stats_port, admin.admin_port), (3, 2));
    assert_eq!(at(&config, "/control/xds/upstream/address"), json!("https://mesh:1"));
    assert_eq!(at(&config, "/control/ca/upstream/address"), json!("https://localhost:15012"));
    for (key, want) in [("A", "mesh"), ("B", "variable"), ("C", "environment"), ("D", "true")] {
        assert_eq!(node.metadata.get(key), Some(&json!(want)), "{key}");
    }
    let over = read_with(&[("XDS_ADDRESS", "env:1")], Some(mesh), &|_| false).unwrap();
    assert_eq!(at(&over, "/control/xds/upstream/address"), json!("https://env:1"));
    let dns = read(&[("PROXY_CONFIG", "proxyMetadata: {ISTIO_META_DNS_CAPTURE: false}")]).unwrap();
    assert!(!dns.dns.enabled);
}

#[test]
fn bad_proxy_configuration_is_named_by_key() {
    for (text, want) in [
        ("[1]", "PROXY_CONFIG=… (not a map)"),
        ("{", "PROXY_CONFIG=… (not YAML at line"),
        ("statsPort: 70000", "PROXY_CONFIG=statsPort: 70000 (not from 0 to 65535)"),
        ("proxyAdminPort: {}", "PROXY_CONFIG=proxyAdminPort:  (not a plain decimal number)"),
        ("concurrency: -1", "PROXY_CONFIG=concurrency: -1 (not a plain decimal number)"),
        ("concurrency: 4000", "PROXY_CONFIG=concurrency: 4000 (not from 0 to 1024)"),
        ("discoveryAddress: http://a:1", "PROXY_CONFIG=discoveryAddress: http://a:1 (only https is spoken)"),
        ("discoveryAddress: 7", "PROXY_CONFIG=discoveryAddress: 7 (not text)"),
        ("proxyMetadata: 7", "PROXY_CONFIG=proxyMetadata:  (not a map)"),
    ] {
        let invalid = read(&[("PROXY_CONFIG", text)]).unwrap_err();
        let shown = invalid[0].to_string();
        assert!(shown.starts_with(&format!("invalid env var {want}")), "{text}: {shown}");
    }
    for text in ["", " ", "null", "{}", "proxyMetadata: null", "# only a comment"] {
        assert!(read(&[("PROXY_CONFIG", text)]).is_ok(), "{text:?}");
    }
    let file = read_with(&[], Some("defaultConfig: {statsPort: x}"), &|_| false).unwrap_err();
    assert_eq!(file[0].to_string(), "invalid mesh config statsPort=x (not a plain decimal number)");
}

#[test]
fn metadata_has_the_fixed_keys_then_strings_then_json() {
    let vars = [
        ("POD_NAME", "p"),
        ("NODE_NAME", "n"),
        ("ISTIO_META_NAME", "other"),
        ("ISTIO_METAJSON_L", "[1, {\"a\": null}]"),
        ("ISTIO_METAJSON_NODE_NAME", "7"),
        ("ISTIO_METAJSON_BAD", "{"),
        ("ISTIO_META_", "no key"),
    ];
    let config = read(&vars).unwrap();
    let want = json!({
        "NAME": "other", "NAMESPACE": "", "INSTANCE_IPS": "1.1.1.1", "NODE_NAME": 7, "L": [1, {"a": null}],
    });
    assert_eq!(json!(config.node.metadata), want);
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].name, "ISTIO_METAJSON_BAD");
}

#[test]
fn a_bad_preferred_namespace_is_only_a_warning() {
    let config = read(&[("PREFERED_SERVICE_NAMESPACE", "Not One")]).unwrap();
    assert_eq!(config.dns.preferred_namespace, None);
    assert_eq!(config.warnings[0].name, "PREFERED_SERVICE_NAMESPACE");
}

#[test]
fn only_some_builds_have_a_fake_authority() {
    let vars = [("FAKE_CA".to_owned(), "true".to_owned()), ("CA_ADDRESS".to_owned(), String::new())].into();
    let inputs = |fake_ca_allowed| Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed,
    };
    assert!(parse(&inputs(true)).unwrap().control.ca.upstream.is_none());
    assert_eq!(parse(&inputs(false)).unwrap_err().len(), 1);
}

#[test]
fn the_summary_is_yaml() {
    let config = read(&[("XDS_HEADER_K", "v"), ("NETWORK", "true"), ("CLUSTER_ID", "a: b")]).unwrap();
    let summary = config.summary();
    assert!(summary.contains("  http2:\n") && summary.contains("    frame_size: 1048576\n"), "{summary}");
    let read_back: Value = serde_saphyr::from_str(&summary).unwrap();
    assert_eq!(read_back, serde_json::to_value(&config).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_text_makes_parsing_panic(
        values in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![".*", "[0-9]{0,22}", "[0-9a-z.:/%=,-]{0,20}", "[\\[\\]{}:&*!|>'\"a \n-]{0,40}"]),
            0..20,
        ),
        mesh in prop::option::of("(defaultConfig:)?[\\[\\]{}:&*!|>'\"a0 \n-]{0,60}"),
        cores in prop_oneof![Just(0), Just(usize::MAX), 0..300_usize],
        exists in any::<bool>(),
    ) {
        let names: Vec<&str> = good()
            .iter()
            .map(|row| row.0)
            .chain(BAD.iter().map(|row| row.0))
            .chain(["PROXY_CONFIG", "PROXY_WORKLOAD_INFO", "ISTIO_METAJSON_X", "XDS_HEADER_é", "LOCAL_XDS"])
            .collect();
        let vars = values.into_iter().map(|(name, value)| ((*name.get(&names)).to_owned(), value)).collect();
        let inputs = Inputs {
            vars: &vars,
            mesh_file: mesh.as_deref(),
            cores,
            memory: Default::default(),
            file_exists: &|_| exists,
            fake_ca_allowed: exists,
        };
        match parse(&inputs) {
            Ok(config) => {
                let count = config.process.shards.count;
                prop_assert!((1..=1024).contains(&count));
                prop_assert!(!config.summary().is_empty());
            }
            Err(invalid) => prop_assert!(invalid.iter().all(|i| !i.to_string().contains('\n'))),
        }
    }
}
