//! A node's proxy as a process, with the settings of docs/spec/controlplane.md 4.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::services::Access;
use crate::lab::{
    apps::{Route, http},
    hosts::Host,
    net::Namespace,
    process::Program,
    valve::Valve,
};

/// The port on the node where a proxy answers whether it is ready (docs/spec/dataplane.md 1.1).
pub const READINESS_PORT: u16 = 15021;

/// The time limit for one readiness request.
const READINESS_WITHIN: Duration = Duration::from_secs(1);

/// The proxy to start, and its options.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// The arguments of the program.
    pub args: Vec<String>,
    /// Settings that override those of every proxy of the lab.
    pub env: Vec<(String, String)>,
    /// The log file's name in the testbed's directory, without `.log`; by default `proxy-NODE`.
    pub log: Option<String>,
    /// The valve before the log file.
    pub valve: Option<Valve>,
}

// === impl Launch ===

impl Launch {
    /// Starts `binary` as the reference is started: with `proxy ztunnel`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let args = vec!["proxy".to_owned(), "ztunnel".to_owned()];
        Self { binary: binary.into(), args, env: Vec::new(), log: None, valve: None }
    }

    /// Adds a setting.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Puts a valve before the log file.
    pub fn valve(mut self, valve: Valve) -> Self {
        self.valve = Some(valve);
        self
    }

    pub(super) fn program(
        &self,
        (node, network): (&Host, &str),
        access: &Access,
        directory: &Path,
    ) -> Program {
        let control = format!("https://{}", access.address);
        let name = self.log.clone().unwrap_or_else(|| format!("proxy-{}", node.name()));
        let log = directory.join(format!("{name}.log"));
        let mut program = Program::new(name, &self.binary).args(&self.args).log(log);
        if let Some(valve) = &self.valve {
            program = program.valve(valve.clone());
        }
        let settings = [
            ("NODE_NAME", node.name()),
            ("XDS_ADDRESS", &control),
            ("CA_ADDRESS", &control),
            ("CLUSTER_ID", "Kubernetes"),
            ("NETWORK", network),
            ("POD_NAME", &format!("warren-{}", node.name())),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "ztunnel"),
        ];
        for (name, value) in settings {
            program = program.env(name, value);
        }
        if let Some(ip) = node.ips().first() {
            program = program.env("INSTANCE_IP", ip.to_string());
        }
        let files = [
            ("XDS_ROOT_CA", access.root_cert.clone()),
            ("CA_ROOT_CA", access.root_cert.clone()),
            ("AUTH_TOKEN", access.token.clone()),
            ("INPOD_UDS", socket(directory, node.name())),
            ("WARREN_HANDOVER_UDS", directory.join(format!("handover-{}.sock", node.name()))),
            ("WARREN_KEEPER_UDS", directory.join(format!("keeper-{}.sock", node.name()))),
        ];
        for (name, path) in files {
            program = program.env(name, path);
        }
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }
}

/// The path of the socket of a node's CNI.
pub(super) fn socket(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("zds-{node}.sock"))
}

/// Whether the proxy on the node with this namespace reports that it is ready.
pub(super) fn is_ready(node: &Namespace) -> bool {
    readiness(node).is_ok_and(|answer| answer.status == 200)
}

/// The answer of the proxy on the node with this namespace to a readiness request.
pub fn readiness(node: &Namespace) -> Result<http::Answer, crate::lab::apps::AppError> {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), READINESS_PORT);
    let request = "GET /healthz/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    http::exchange(&Route::new(node, to), request, READINESS_WITHIN)
}
