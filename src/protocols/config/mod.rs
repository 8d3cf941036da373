//! Settings: one section for each consumer, read from what `main` hands in (docs/spec/controlplane.md 4).
//!
//! Every bad value is reported, not only the first. Unknown variables are ignored. Settings the contract does
//! not know are named `WARREN_…`.

mod admin;
mod buffer;
mod ca;
mod chaos;
mod dns;
mod document;
mod drain;
mod export;
mod http2;
mod inpod;
mod inputs;
mod join;
mod keeper;
mod listen;
mod log;
mod log_filter;
mod node;
mod otlp;
mod policy;
mod pool;
mod proxy_config;
mod reader;
mod seccomp;
mod shard;
mod socket;
mod summary;
mod timeout;
mod tls;
mod traces;
mod upstream;
mod value;
mod var;
mod xds;

use serde::Serialize;

pub use self::{
    admin::AdminConfig,
    buffer::BufferConfig,
    ca::CaConfig,
    chaos::{ChaosConfig, HandoverFault, HandoverStep},
    dns::{DnsAddr, DnsConfig},
    drain::DrainConfig,
    export::{LogExport, MetricExport, OtlpConfig},
    http2::Http2Config,
    inpod::InpodConfig,
    inputs::{Inputs, MESH_FILE, Memory},
    join::JoinConfig,
    keeper::{KeeperConfig, KeeperSettings},
    listen::{ListenConfig, Ports},
    log::{LogConfig, LogFormat},
    log_filter::{FilterError, LogFilter},
    node::{NodeConfig, ProxyMode, WorkloadInfo},
    otlp::{CollectorConfig, ExportQueue, OtlpEndpoint, OtlpProtocol},
    policy::{MissingPolicy, PolicyConfig},
    pool::PoolConfig,
    reader::{Invalid, Origin},
    seccomp::SeccompMode,
    shard::ShardConfig,
    socket::{Keepalive, SocketConfig},
    timeout::TimeoutConfig,
    tls::{Compliance, TlsConfig},
    traces::{Sampling, TraceConfig},
    upstream::{Address, RootSource, Secret, TokenSource, Upstream},
    var::{Section, Var},
    xds::{LocalSource, XdsConfig},
};
use self::{proxy_config::ProxyConfig, reader::Reader};

/// Every setting, one section for each consumer.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The identity of this proxy: its node, its pod, its cluster.
    pub node: NodeConfig,
    /// The servers that configuration and certificates come from.
    pub control: ControlConfig,
    /// istio-cni and the sockets in pods.
    pub inpod: InpodConfig,
    /// Listeners, and how connections are served.
    pub listen: ListenConfig,
    /// Tunnels between proxies.
    pub tunnel: TunnelConfig,
    /// Authorization policies.
    pub policy: PolicyConfig,
    /// TCP options of the proxy's sockets.
    pub socket: SocketConfig,
    /// How the proxy stops.
    pub drain: DrainConfig,
    /// Who holds live connections while no proxy runs.
    pub keeper: KeeperConfig,
    /// The DNS proxy.
    pub dns: DnsConfig,
    /// How long the proxy waits for anything.
    pub timeouts: TimeoutConfig,
    /// How the process runs.
    pub process: ProcessConfig,
    /// The faults that could be ignored.
    #[serde(skip)]
    pub warnings: Vec<Invalid>,
}

/// The servers that configuration and certificates come from.
#[derive(Clone, Debug, Serialize)]
pub struct ControlConfig {
    /// The discovery server.
    pub xds: XdsConfig,
    /// The certificate authority.
    pub ca: CaConfig,
    /// The token that both servers are shown.
    pub token: TokenSource,
}

/// Tunnels between proxies.
#[derive(Clone, Debug, Serialize)]
pub struct TunnelConfig {
    /// Flow control, and what is sent ahead.
    pub http2: Http2Config,
    /// Memory for bytes that wait for their readers.
    pub buffers: BufferConfig,
    /// How tunnels are shared.
    pub pool: PoolConfig,
    /// What is negotiated and who is refused.
    pub tls: TlsConfig,
    /// Connections between pods that need no tunnel.
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
    /// What becomes of system calls that the proxy does not need.
    pub seccomp: SeccompMode,
    /// Traces, logs and metrics for a collector.
    pub otlp: OtlpConfig,
}

/// Reads all settings.
///
/// # Errors
/// Every value that is malformed, out of range or contradicts another.
pub fn parse(inputs: &Inputs<'_>) -> Result<Config, Vec<Invalid>> {
    let mut r = Reader::new(inputs);
    let config = read(&mut r);
    let warnings = r.finish()?;
    Ok(Config { warnings, ..config })
}

/// Every variable, by subject.
pub fn variables() -> Vec<Section> {
    let (_, mut sections) = reader::with_defaults(read);
    sections.push(Section { title: "Accepted without effect", vars: var::IGNORED.iter().collect() });
    sections
}

/// docs/settings.md.
pub fn document() -> String {
    document::settings(&variables())
}

fn read(r: &mut Reader<'_>) -> Config {
    r.section("Who and where");
    let proxy = ProxyConfig::read(r);
    let node = NodeConfig::read(r, &proxy);
    r.section("Control plane");
    let xds = XdsConfig::read(r, &proxy);
    let control = ControlConfig { xds, ca: CaConfig::read(r), token: TokenSource::read(r) };
    r.section("Pods and sockets");
    let inpod = InpodConfig::read(r, &node.mode);
    let mut listen = ListenConfig::read(r);
    let policy = PolicyConfig::read(r);
    let socket = SocketConfig::read(r);
    r.section("Names");
    let dns = DnsConfig::read(r, &proxy);
    listen.ports.dns = dns.enabled.then_some(dns.address);
    r.section("Tunnels");
    let tunnel = TunnelConfig::read(r);
    r.section("Timeouts");
    let timeouts = TimeoutConfig::read(r);
    r.section("Stopping");
    let drain = DrainConfig::read(r);
    let keeper = KeeperConfig::read(r, inpod.handover_uds.as_deref());
    let process = ProcessConfig::read(r, &proxy);
    if control.xds.on_demand && dns.enabled {
        let reason = "the DNS proxy needs every service: set ISTIO_META_DNS_CAPTURE=false";
        r.reject(&xds::ON_DEMAND, reason);
    }
    if control.xds.on_demand && control.xds.upstream.is_none() {
        r.warn(xds::ON_DEMAND.name, "true", "no effect: there is no discovery server".into());
    }
    if node.is_dedicated() && inpod.packet_mark.is_none() {
        listen.without_mark(r);
    }
    if !listen.proxy && !dns.enabled {
        r.reject(&listen::ENABLE_PROXY, "the DNS proxy is off too, so nothing would run");
    }
    let warnings = Vec::new();
    Config {
        node,
        control,
        inpod,
        listen,
        tunnel,
        policy,
        socket,
        drain,
        keeper,
        dns,
        timeouts,
        process,
        warnings,
    }
}

impl TunnelConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            http2: Http2Config::read(r),
            buffers: BufferConfig::read(r),
            pool: PoolConfig::read(r),
            tls: TlsConfig::read(r),
            join: JoinConfig::read(r),
        }
    }
}

impl ProcessConfig {
    fn read(r: &mut Reader<'_>, proxy: &ProxyConfig) -> Self {
        r.section("Process");
        let (log, admin) = (LogConfig::read(r), AdminConfig::read(r, proxy));
        let (shards, chaos) = (ShardConfig::read(r, proxy), ChaosConfig::read(r));
        let seccomp = SeccompMode::read(r);
        r.section("Traces, logs and metrics");
        Self { log, admin, shards, chaos, seccomp, otlp: OtlpConfig::read(r) }
    }
}

impl Default for Config {
    /// The settings of an empty environment, for one processor.
    fn default() -> Self {
        reader::defaults(read)
    }
}

impl Config {
    /// The settings as YAML, for the log at startup. Secrets are left out, and so is what could hold one.
    pub fn summary(&self) -> String {
        summary::yaml(self)
    }
}

#[cfg(test)]
mod tests;
