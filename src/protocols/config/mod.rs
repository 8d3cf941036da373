//! Settings: one section for each consumer, read from what `main` hands in (contract/controlplane.md section
//! 4).
//!
//! Every bad value is reported, not only the first. Unknown variables are ignored. Settings the contract does
//! not know are named `WARREN_…`.

mod admin;
mod ca;
mod chaos;
mod dns;
mod drain;
mod export;
mod http2;
mod inpod;
mod inputs;
mod join;
mod listen;
mod log;
mod node;
mod otlp;
mod pool;
mod proxy_config;
mod reader;
mod shard;
mod socket;
mod summary;
mod timeout;
mod tls;
mod traces;
mod upstream;
mod value;
mod xds;

use serde::Serialize;

pub use self::{
    admin::AdminConfig,
    ca::CaConfig,
    chaos::ChaosConfig,
    dns::{DnsAddr, DnsConfig},
    drain::DrainConfig,
    export::{LogExport, MetricExport, OtlpConfig},
    http2::Http2Config,
    inpod::InpodConfig,
    inputs::{Inputs, MESH_FILE},
    join::JoinConfig,
    listen::{ListenConfig, Ports},
    log::{Directive, FilterError, LogConfig, LogFilter, LogFormat},
    node::{NodeConfig, ProxyMode, WorkloadInfo},
    otlp::{CollectorConfig, ExportQueue, OtlpEndpoint, OtlpProtocol},
    pool::PoolConfig,
    reader::{Invalid, Origin},
    shard::ShardConfig,
    socket::{Keepalive, SocketConfig},
    timeout::TimeoutConfig,
    tls::{Compliance, TlsConfig},
    traces::{Sampling, TraceConfig},
    upstream::{Address, RootSource, Secret, TokenSource, Upstream},
    xds::{LocalSource, XdsConfig},
};
use self::{proxy_config::ProxyConfig, reader::Reader};

/// Every setting, one section for each consumer.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Who this proxy is.
    pub node: NodeConfig,
    /// Whom it gets its configuration and certificates from.
    pub control: ControlConfig,
    /// istio-cni and its pods.
    pub inpod: InpodConfig,
    /// What it listens on and how it serves.
    pub listen: ListenConfig,
    /// Tunnels between proxies.
    pub tunnel: TunnelConfig,
    /// TCP options of its sockets.
    pub socket: SocketConfig,
    /// How it stops.
    pub drain: DrainConfig,
    /// The DNS proxy.
    pub dns: DnsConfig,
    /// How long it waits for anything.
    pub timeouts: TimeoutConfig,
    /// How the process runs.
    pub process: ProcessConfig,
    /// What was wrong but could be ignored.
    #[serde(skip)]
    pub warnings: Vec<Invalid>,
}

/// Whom the proxy gets its configuration and certificates from.
#[derive(Clone, Debug, Serialize)]
pub struct ControlConfig {
    /// The discovery server.
    pub xds: XdsConfig,
    /// The certificate authority.
    pub ca: CaConfig,
    /// What it shows to both.
    pub token: TokenSource,
}

/// Tunnels between proxies.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelConfig {
    /// Flow control, and what is sent ahead.
    pub http2: Http2Config,
    /// How tunnels are shared.
    pub pool: PoolConfig,
    /// What is negotiated and who is refused.
    pub tls: TlsConfig,
    /// Pods that need none.
    pub join: JoinConfig,
}

/// How the process runs.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessConfig {
    /// What is logged.
    pub log: LogConfig,
    /// Ports for operators.
    pub admin: AdminConfig,
    /// Threads of the data plane.
    pub shards: ShardConfig,
    /// Breaking things on purpose.
    pub chaos: ChaosConfig,
    /// Traces, logs and metrics for a collector.
    pub otlp: OtlpConfig,
}

/// Reads all settings.
///
/// # Errors
/// Every value that is malformed, out of range or contradicts another.
pub fn parse(inputs: &Inputs<'_>) -> Result<Config, Vec<Invalid>> {
    let mut r = Reader::new(inputs);
    let proxy = ProxyConfig::read(&mut r);
    let node = NodeConfig::read(&mut r, &proxy);
    let dns = DnsConfig::read(&mut r, &proxy);
    let xds = XdsConfig::read(&mut r, &proxy);
    let listen = ListenConfig::read(&mut r);
    if xds.on_demand && dns.enabled {
        r.reject("XDS_ON_DEMAND", "the DNS proxy needs every service: set ISTIO_META_DNS_CAPTURE=false");
    }
    if !listen.proxy && !dns.enabled {
        r.reject("ENABLE_PROXY", "the DNS proxy is off too, so nothing would run");
    }
    let config = Config {
        control: ControlConfig { xds, ca: CaConfig::read(&mut r, &proxy), token: TokenSource::read(&mut r) },
        inpod: InpodConfig::read(&mut r, &node.mode),
        tunnel: TunnelConfig {
            http2: Http2Config::read(&mut r),
            pool: PoolConfig::read(&mut r),
            tls: TlsConfig::read(&mut r),
            join: JoinConfig::read(&mut r),
        },
        socket: SocketConfig::read(&mut r),
        drain: DrainConfig::read(&mut r),
        timeouts: TimeoutConfig::read(&mut r),
        process: ProcessConfig {
            log: LogConfig::read(&mut r),
            admin: AdminConfig::read(&mut r, &proxy),
            shards: ShardConfig::read(&mut r, &proxy),
            chaos: ChaosConfig::read(&mut r),
            otlp: OtlpConfig::read(&mut r),
        },
        node,
        listen,
        dns,
        warnings: Vec::new(),
    };
    let warnings = r.finish()?;
    Ok(Config { warnings, ..config })
}

impl Config {
    /// The settings as YAML, for the log at startup. Secrets are left out, and so is what could hold one.
    pub fn summary(&self) -> String {
        summary::yaml(self)
    }
}

#[cfg(test)]
mod tests;
