//! The settings in `/config_dump`, in the shapes that Kiali decodes (docs/spec/controlplane.md 7.2).

use std::{net::Ipv4Addr, time::Duration};

use serde_json::{Map, Value, json};

use crate::protocols::config::{Config, DnsAddr, ProxyMode, RootSource, Upstream};

/// The settings. Kiali drops the whole dump at one value of another type, so a value that does not fit is null. Secrets
/// are left out, and so is what could hold one.
pub(crate) fn settings(config: &Config) -> Value {
    let mut fields = Map::new();
    for part in [listeners(config), control(config), tunnels(config), whole(config)] {
        if let Value::Object(part) = part {
            fields.extend(part);
        }
    }
    fields.into()
}

fn listeners(config: &Config) -> Value {
    let (listen, admin) = (&config.listen, &config.process.admin);
    let wildcard =
        |port: u16| if listen.ipv6_enabled { format!("[::]:{port}") } else { format!("0.0.0.0:{port}") };
    let ports = &listen.ports;
    let illegal: Vec<u16> =
        [ports.hbone, ports.plaintext, ports.outbound].into_iter().chain(ports.socks5).collect();
    json!({
        "adminAddr": {"Localhost": [listen.ipv6_enabled, admin.admin_port]},
        "statsAddr": {"SocketAddr": wildcard(admin.stats_port)},
        "readinessAddr": {"SocketAddr": wildcard(admin.readiness_port)},
        "dnsProxyAddr": match config.dns.address {
            DnsAddr::Localhost(port) => json!({"Localhost": [listen.ipv6_enabled, port]}),
            DnsAddr::Ip(addr) => json!({"SocketAddr": addr.to_string()}),
        },
        "inboundAddr": wildcard(ports.hbone),
        "inboundPlaintextAddr": wildcard(ports.plaintext),
        "outboundAddr": wildcard(ports.outbound),
        "socks5Addr": ports.socks5.map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST)),
        "illegalPorts": illegal,
        "proxy": listen.proxy,
        "dnsProxy": config.dns.enabled,
        "requireOriginalSource": null,
        "inpodUds": config.inpod.uds,
        "inpodPortReuse": config.inpod.port_reuse,
        "packetMark": config.inpod.packet_mark,
    })
}

fn control(config: &Config) -> Value {
    let (xds, ca) = (&config.control.xds, &config.control.ca);
    let address =
        |upstream: &Option<Upstream>| upstream.as_ref().map(|upstream| upstream.address.to_string());
    let alt =
        |upstream: &Option<Upstream>| upstream.as_ref().and_then(|upstream| upstream.alt_hostname.clone());
    let headers = |upstream: &Option<Upstream>| -> Vec<String> {
        let headers = upstream.iter().flat_map(|upstream| &upstream.headers);
        headers.map(|(name, _)| name.to_string()).collect()
    };
    json!({
        "xdsAddress": address(&xds.upstream),
        "xdsRootCert": root(&xds.upstream),
        "altXdsHostname": alt(&xds.upstream),
        "xdsHeaders": headers(&xds.upstream),
        "xdsOnDemand": xds.on_demand,
        "caAddress": address(&ca.upstream),
        "caRootCert": root(&ca.upstream),
        "altCaHostname": alt(&ca.upstream),
        "caHeaders": headers(&ca.upstream),
        "secretTtl": duration(ca.secret_ttl),
        "fakeCa": ca.upstream.is_none(),
    })
}

fn tunnels(config: &Config) -> Value {
    let (http2, pool) = (&config.tunnel.http2, &config.tunnel.pool);
    json!({
        "windowSize": http2.stream_window,
        "connectionWindowSize": http2.connection_window,
        "frameSize": http2.frame_size,
        "poolMaxStreamsPerConn": pool.max_streams,
        "poolUnusedReleaseTimeout": duration(pool.unused_release),
    })
}

fn whole(config: &Config) -> Value {
    let node = &config.node;
    json!({
        "clusterDomain": node.cluster_domain,
        "clusterId": node.cluster_id,
        "network": node.network,
        "localNode": node.node_name,
        "proxyMode": match node.mode {
            ProxyMode::Shared => "Shared",
            ProxyMode::Dedicated(_) => "Dedicated",
        },
        "proxyWorkloadInformation": match &node.mode {
            ProxyMode::Shared => None,
            ProxyMode::Dedicated(own) => Some(format!("{}/{}/{}", own.namespace, own.name, own.service_account)),
        },
        "proxyArgs": "proxy ztunnel",
        "proxyMetadata": node.proxy_metadata,
        "fakeSelfInbound": false,
        "numWorkerThreads": config.process.shards.count,
        "selfTerminationDeadline": duration(config.drain.deadline),
        // Kiali does not know this key. The key has every setting, grouped as in docs/settings.md.
        "settings": config,
    })
}

fn root(upstream: &Option<Upstream>) -> Value {
    match upstream.as_ref().map(|upstream| &upstream.roots) {
        None => Value::Null,
        Some(RootSource::File(path)) => json!({"File": path}),
        Some(RootSource::System) => json!({"File": "SYSTEM"}),
        Some(RootSource::Inline(_)) => json!({"File": "inline"}),
    }
}

fn duration(duration: Duration) -> Value {
    json!({"secs": duration.as_secs(), "nanos": duration.subsec_nanos()})
}

#[cfg(test)]
mod tests;
