//! From the settings of the process to those of the data plane.

use std::{fs, time::Duration};

use super::{
    dns::DnsSettings,
    node::{Options, PoolSettings, Settings, Timeouts},
};
use crate::protocols::{config::Config, dns::resolvers::Resolvers};

/// Settings of the data plane.
pub fn data_plane(config: &Config) -> Settings {
    let (http2, pool, timeouts) = (&config.tunnel.http2, &config.tunnel.pool, &config.timeouts);
    Settings {
        network: config.node.network.clone(),
        ipv6: config.listen.ipv6_enabled,
        mark: config.inpod.packet_mark,
        reuse_port: config.inpod.port_reuse,
        original_source: config.listen.orig_src,
        keepalive: config.socket.keepalive,
        unpaced_rtt: config.socket.unpaced_rtt,
        http2: *http2,
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
        illegal_ports: config.listen.ports,
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

/// How long the whole process may take to stop after its connections have ended.
pub const STOP_WITHIN: Duration = Duration::from_secs(3);
