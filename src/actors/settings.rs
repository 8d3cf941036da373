//! From the process's settings to those of each part.

use std::{fs, path::PathBuf, time::Duration};

use super::{
    dns::DnsSettings,
    grpc::{self, AuthHeaders, GrpcError, GrpcTarget},
    node::{Options, PoolSettings, Settings, Timeouts},
    sys::socket::Keepalive,
};
use crate::protocols::{
    config::{Config, RootSource, TokenSource, Upstream},
    dns::resolvers::Resolvers,
    hbone::Http2Settings,
    pb::ads::Node as XdsNode,
    route::IllegalPorts,
    tls::TlsOptions,
    xds::node::{NodeInputs, node},
};

/// Streams a peer may open on one of our tunnels (contract/dataplane.md section 2.2).
const MAX_PEER_STREAMS: u32 = 200;

/// Settings of the data plane.
pub fn data_plane(config: &Config) -> Settings {
    let (http2, pool, timeouts) = (&config.tunnel.http2, &config.tunnel.pool, &config.timeouts);
    let keepalive = config.socket.keepalive.as_ref().map(|keepalive| Keepalive {
        time: keepalive.time,
        interval: keepalive.interval,
        retries: keepalive.retries,
        user_timeout: keepalive.user_timeout.is_some(),
    });
    Settings {
        network: config.node.network.clone(),
        ipv6: config.listen.ipv6_enabled,
        mark: config.inpod.packet_mark,
        reuse_port: config.inpod.port_reuse,
        original_source: config.listen.orig_src,
        keepalive,
        unpaced_rtt: config.socket.unpaced_rtt,
        http2: Http2Settings {
            stream_window: http2.stream_window,
            connection_window: http2.connection_window,
            frame_size: http2.frame_size,
            max_streams: MAX_PEER_STREAMS,
        },
        pool: PoolSettings {
            max_streams: pool.max_streams,
            unused_release: pool.unused_release,
            ping_interval: timeouts.ping_interval,
            ping_timeout: timeouts.ping,
        },
        timeouts: Timeouts {
            connect: timeouts.connect,
            tls: timeouts.tls_handshake,
            http2: timeouts.h2_settings,
            response: timeouts.connect_response,
            workload: timeouts.workload,
            certificate: timeouts.certificate,
        },
        options: Options {
            baggage: config.listen.baggage,
            localhost_app_tunnel: config.listen.localhost_app_tunnel,
            policy_log: config.process.log.policy_info,
            local_join: config.tunnel.join.enabled,
            early_data: config.tunnel.http2.early_data,
        },
        illegal_ports: IllegalPorts::new(config.listen.ports.illegal()),
        dns: config.dns.enabled.then(|| names(config)),
    }
}

/// Settings of the DNS proxy. Reads the node's resolv.conf; without one only names of the mesh are answered.
fn names(config: &Config) -> DnsSettings {
    let (dns, path) = (&config.dns, &config.dns.resolv_conf);
    let text = fs::read(path).unwrap_or_else(|error| {
        tracing::warn!(target: "dns", path, %error, "no name servers: cannot read resolv.conf");
        Vec::new()
    });
    let (resolvers, complaints) = Resolvers::parse(&text);
    for complaint in complaints {
        tracing::warn!(target: "dns", path, complaint, "passed over in resolv.conf");
    }
    DnsSettings {
        address: dns.address,
        domain: config.node.cluster_domain.to_ascii_lowercase(),
        preferred_namespace: dns.preferred_namespace.clone(),
        resolvers,
    }
}

/// An actor that has not let go of its loop for so long is killed. Handlers only start tasks and so take microseconds;
/// those that take longer, and those whose end costs connections, have limits of their own or none.
pub const HUNG_AFTER: Duration = Duration::from_millis(500);

/// What every TLS connection between proxies speaks.
pub fn tls(config: &Config) -> TlsOptions {
    let tls = &config.tunnel.tls;
    TlsOptions { tls12: tls.tls12, pqc_only: tls.compliance.is_some(), revocations: None }
}

/// Where a server of the control plane is, and how its certificate is checked.
///
/// # Errors
/// The address is no address.
pub fn target(config: &Config, upstream: &Upstream) -> Result<GrpcTarget, GrpcError> {
    let roots = match &upstream.roots {
        RootSource::File(path) => grpc::RootSource::File(PathBuf::from(path)),
        RootSource::System => grpc::RootSource::System,
        RootSource::Inline(pem) => grpc::RootSource::Inline(pem.clone()),
    };
    let tls = tls(config);
    Ok(GrpcTarget {
        host: upstream.address.host.clone(),
        port: upstream.address.port,
        roots,
        alt_hostname: upstream.alt_hostname.clone(),
        tls12: tls.tls12,
        post_quantum_only: tls.pqc_only,
        connect_timeout: grpc::CONNECT_TIMEOUT,
    })
}

/// What every request to a server of the control plane carries.
///
/// # Errors
/// A header holds what no header may.
pub fn headers(config: &Config, upstream: &Upstream) -> Result<AuthHeaders, GrpcError> {
    let token = match &config.control.token {
        TokenSource::None => grpc::TokenSource::None,
        TokenSource::File(path) => grpc::TokenSource::File(PathBuf::from(path)),
        TokenSource::Value(token) => grpc::TokenSource::Literal(grpc::Token::new(token.expose())),
    };
    let extra = upstream.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    AuthHeaders::new(token, &config.node.cluster_id, extra)
}

/// What this proxy tells the discovery server of itself.
pub fn xds_node(config: &Config) -> XdsNode {
    let own = &config.node;
    let mut inputs = NodeInputs {
        ip: own.instance_ip.to_string(),
        pod: own.pod_name.clone().unwrap_or_default(),
        namespace: own.pod_namespace.clone().unwrap_or_default(),
        node_name: own.node_name.clone().unwrap_or_default(),
        metadata: Default::default(),
        json_metadata: Default::default(),
    };
    for (key, value) in &own.metadata {
        match value.as_str() {
            Some(text) => inputs.metadata.insert(key.clone(), text.to_owned()),
            None => inputs.json_metadata.insert(key.clone(), value.to_string()),
        };
    }
    let (node, bad) = node(&inputs);
    for bad in bad {
        tracing::warn!(target: "xds", "{bad}");
    }
    node
}

/// How long the whole process may take to stop after its connections have ended.
pub const STOP_WITHIN: Duration = Duration::from_secs(3);
