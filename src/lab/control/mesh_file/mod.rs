//! The mesh file: nodes, pods, services and policies in readable YAML.
//!
//! ```yaml
//! nodes: {one: 10.77.0.1, two: }            # an address left out is chosen, the same each time
//! pods:
//!   - {name: client, node: one}             # namespace and service account are `default`
//!   - {name: web-1, namespace: shop, serviceAccount: web, node: two, app: web, version: v1, run: http 8080 hello}
//!   - {name: bare, node: two, captured: false, protocol: TCP}
//! outside:
//!   - {name: db, run: echo 9000}
//! services:
//!   - {name: web, namespace: shop, ports: {80: 8080}, app: web}
//! policies:
//!   - name: only-client
//!     namespace: shop
//!     action: ALLOW
//!     rules:
//!       - from: {serviceAccounts: [default/default]}
//!         to: {ports: [8080]}
//! strict: [shop]                            # refuse plaintext to the pods of these namespaces
//! ```
//!
//! Unknown keys are errors with their line, and all that is wrong with the values is said at once.

pub(super) mod addresses;
mod check;
mod gateway;
mod raw;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

pub use self::{
    gateway::{Gateway, GatewayError},
    raw::{
        Action, Announce, HealthPolicy, LbMode, LbScope, LoadBalancing, Locality, Protocol, Scope, Status,
        Visibility,
    },
};

/// Where the lab's control plane listens, on the fabric: no host of a mesh file may have it.
pub const CONTROL_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 254));

/// The largest mesh file read.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// A mesh, checked: every name that is referred to exists, and every host has an address of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// The address of each node.
    pub nodes: BTreeMap<String, IpAddr>,
    /// In the order of the file.
    pub pods: Vec<Pod>,
    /// Hosts the mesh knows nothing of.
    pub outside: Vec<Outside>,
    /// In the order of the file.
    pub services: Vec<Service>,
    /// In the order of the file.
    pub policies: Vec<Policy>,
    /// Namespaces whose pods take no plaintext.
    pub strict: Vec<String>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Unique in its namespace.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The node it runs on, one of [`Mesh::nodes`].
    pub node: String,
    /// At least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// What services and policies select it by; its name unless said.
    pub app: String,
    /// Shown in telemetry.
    pub version: String,
    /// Whether its traffic is redirected to the node's proxy.
    pub captured: bool,
    /// The applications it runs, in the lab's own words.
    pub run: Vec<String>,
    /// How other proxies reach it.
    pub protocol: Protocol,
    /// The waypoint that traffic to it goes through.
    pub waypoint: Option<Gateway>,
    /// What else the control plane says of it.
    pub announce: Announce,
}

/// A host outside the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Outside {
    /// Unique among outside hosts.
    pub name: String,
    /// At least one, unique in the mesh.
    pub ips: Vec<IpAddr>,
    /// The applications it runs, in the lab's own words.
    pub run: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The Kubernetes name.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
    /// Fully qualified.
    pub hostname: String,
    /// None for a headless service.
    pub vips: Vec<Vip>,
    /// Service port to target port.
    pub ports: BTreeMap<u16, u16>,
    /// Its endpoints, as indexes into [`Mesh::pods`], ascending.
    pub endpoints: Vec<usize>,
    /// The waypoint that traffic to it goes through.
    pub waypoint: Option<Gateway>,
    /// SPIFFE ids accepted besides the endpoints' own.
    pub subject_alt_names: Vec<String>,
    /// How endpoints are chosen.
    pub load_balancing: Option<LoadBalancing>,
    /// Wins ties between namespaces.
    pub canonical: bool,
    /// Who sees it.
    pub visibility: Visibility,
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The network it is valid in; empty is the default one.
    pub network: String,
    /// One address, or many.
    pub addresses: IpNet,
}

/// One authorization policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Unique in its namespace.
    pub name: String,
    /// The namespace it is of.
    pub namespace: String,
    /// What it applies to.
    pub scope: Scope,
    /// What it does when a rule matches.
    pub action: Action,
    /// Evaluated and logged, never enforced.
    pub dry_run: bool,
    /// The pods it is bound to, as indexes into [`Mesh::pods`], for [`Scope::Workload`].
    pub pods: Vec<usize>,
    /// Any may match.
    pub rules: Vec<Rule>,
}

/// Both sides must match; a side that says nothing matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Any may match.
    pub from: Vec<Source>,
    /// Any may match.
    pub to: Vec<Target>,
}

/// Who connects: all that is said must hold, any value of a list will do, and none of a `not` list may.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// Namespaces; `*` at either end stands for anything, alone for any that is not empty.
    pub namespaces: Listed<String>,
    /// `trust-domain/ns/namespace/sa/account`, with `*` as above.
    pub principals: Listed<String>,
    /// `namespace/account`, in any trust domain.
    pub service_accounts: Listed<(String, String)>,
    /// Addresses.
    pub ip_blocks: Listed<IpNet>,
}

/// What is connected to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Ports of the pod.
    pub ports: Listed<u16>,
    /// Addresses of the pod.
    pub ip_blocks: Listed<IpNet>,
}

/// Values of which one must be met, and values of which none may.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// One of these, if there are any.
    pub any: Vec<T>,
    /// None of these.
    pub none: Vec<T>,
}

/// Something wrong in a mesh file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with what.
    pub what: String,
}

/// All that is wrong in a mesh file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// Why there is no mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshFileError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is larger than any mesh file.
    #[error("{} has more than {FILE_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It is no YAML, or has unknown keys or values of the wrong kind. The text names the line and shows it.
    #[error("{0}")]
    Yaml(String),
    /// The values are wrong.
    #[error("{0}")]
    Invalid(Problems),
}

// === impl Mesh ===

impl Mesh {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// See [`MeshFileError`].
    pub fn read(path: &Path) -> Result<Self, MeshFileError> {
        let error = |error| MeshFileError::Read { path: path.into(), error };
        if fs::metadata(path).map_err(error)?.len() > FILE_BYTES {
            return Err(MeshFileError::TooLarge(path.into()));
        }
        Self::parse(&fs::read_to_string(path).map_err(error)?)
    }

    /// Parses and checks the text of a mesh file.
    ///
    /// # Errors
    /// All but those of reading.
    pub fn parse(text: &str) -> Result<Self, MeshFileError> {
        // A file of comments is an empty mesh.
        let raw: Option<raw::Mesh> =
            serde_saphyr::from_str(text).map_err(|error| MeshFileError::Yaml(error.render()))?;
        check::mesh(raw.unwrap_or_default()).map_err(MeshFileError::Invalid)
    }

    /// The pod of that name, where it is unique, or of that `namespace/name`.
    pub fn pod(&self, name: &str) -> Option<&Pod> {
        let index = check::find_pod(&self.pods, name, None)?;
        self.pods.get(index)
    }

    /// The pods of a node.
    pub fn pods_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.node == node)
    }
}

// === impl Pod ===

impl Pod {
    /// The name by which the control plane knows it (docs/spec/protos.md 1).
    pub fn workload_uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }

    /// The uid by which istio-cni knows it: made of its name, in the form of Kubernetes' own.
    pub fn kubernetes_uid(&self) -> String {
        let high = addresses::hash(&[&self.namespace, &self.name, "uid", "high"]);
        let low = addresses::hash(&[&self.namespace, &self.name, "uid", "low"]);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// Its identity, `spiffe://` and all.
    pub fn spiffe_id(&self) -> String {
        let trust_domain = self.announce.trust_domain.as_deref().unwrap_or("cluster.local");
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.service_account)
    }
}

// === impl Listed ===

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let end = if i + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "line {}: {}{end}", problem.line, problem.what)?;
        }
        Ok(())
    }
}
