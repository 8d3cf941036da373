//! The file as it is written. The module `check` interprets and checks the values.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;

/// A value, or a list of them.
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mesh {
    pub(super) nodes: BTreeMap<String, Spanned<Option<String>>>,
    pub(super) networks: Vec<Network>,
    pub(super) pods: Vec<Pod>,
    pub(super) outside: Vec<Outside>,
    pub(super) services: Vec<Service>,
    pub(super) policies: Vec<Policy>,
    pub(super) strict: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Network {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) nodes: Vec<String>,
    pub(super) gateway: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pod {
    pub(super) name: Spanned<String>,
    pub(super) namespace: Option<String>,
    pub(super) service_account: Option<String>,
    pub(super) node: Option<String>,
    #[serde(default)]
    pub(super) ip: OneOrMany<String>,
    pub(super) app: Option<String>,
    pub(super) version: Option<String>,
    pub(super) captured: Option<bool>,
    #[serde(default)]
    pub(super) run: OneOrMany<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) waypoint: Option<String>,
    #[serde(default)]
    pub(super) announce: Announce,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Outside {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) ip: OneOrMany<String>,
    #[serde(default)]
    pub(super) run: OneOrMany<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: Spanned<String>,
    pub(super) namespace: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) vips: Option<OneOrMany<String>>,
    pub(super) ports: BTreeMap<u16, u16>,
    pub(super) app: Option<String>,
    #[serde(default)]
    pub(super) endpoints: Vec<String>,
    pub(super) waypoint: Option<String>,
    #[serde(default)]
    pub(super) weighted_waypoints: BTreeMap<String, u32>,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<String>,
    pub(super) load_balancing: Option<LoadBalancing>,
    #[serde(default)]
    pub(super) canonical: bool,
    #[serde(default)]
    pub(super) visibility: Visibility,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: Spanned<String>,
    pub(super) namespace: Option<String>,
    pub(super) scope: Option<Scope>,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) dry_run: bool,
    pub(super) app: Option<String>,
    #[serde(default)]
    pub(super) pods: Vec<String>,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Rule {
    pub(super) from: OneOrMany<From>,
    pub(super) to: OneOrMany<To>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct From {
    pub(super) namespaces: Vec<String>,
    pub(super) not_namespaces: Vec<String>,
    pub(super) principals: Vec<String>,
    pub(super) not_principals: Vec<String>,
    pub(super) service_accounts: Vec<String>,
    pub(super) not_service_accounts: Vec<String>,
    pub(super) ip_blocks: Vec<String>,
    pub(super) not_ip_blocks: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct To {
    pub(super) ports: Vec<u16>,
    pub(super) not_ports: Vec<u16>,
    pub(super) ip_blocks: Vec<String>,
    pub(super) not_ip_blocks: Vec<String>,
}

/// Further properties that the control plane announces for a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Announce {
    /// Whether the pod is ready.
    pub status: Status,
    /// The pod's trust domain; by default `cluster.local`.
    pub trust_domain: Option<String>,
    /// The pod's network; empty is the default network.
    pub network: String,
    /// The gateway to the pod's network, written like a [`super::Gateway`].
    pub network_gateway: Option<String>,
    /// The pod's weight among endpoints; by default 1.
    pub capacity: Option<u32>,
    /// The pod's locality.
    pub locality: Locality,
    /// Whether the pod shares its node's address.
    pub host_network: bool,
    /// Whether the pod speaks HBONE by itself.
    pub native_tunnel: bool,
    /// The port of the application's own PROXY protocol listener.
    pub proxy_protocol_port: Option<u16>,
    /// A hostname instead of addresses, which DNS resolves.
    pub hostname: Option<String>,
}

/// The locality of a pod. An empty part is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Locality {
    /// The region, the largest part.
    pub region: String,
    /// The zone in the region.
    pub zone: String,
    /// The subzone in the zone.
    pub subzone: String,
}

/// How a service chooses its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancing {
    /// How strictly the preferences apply.
    pub mode: LbMode,
    /// The preferences, in order.
    #[serde(default)]
    pub preference: Vec<LbScope>,
    /// Whether pods that are not ready are endpoints.
    #[serde(default)]
    pub health: HealthPolicy,
}

/// How other proxies reach a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Other proxies reach the pod through its node's proxy.
    Hbone,
    /// Other proxies connect to the pod in plaintext.
    Tcp,
}

/// Whether a pod is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The pod is ready.
    #[default]
    Healthy,
    /// The pod is not ready.
    Unhealthy,
}

/// The pods that a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every pod.
    Mesh,
    /// The pods of its namespace.
    Namespace,
    /// The pods that the policy names.
    Workload,
}

/// The action of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// The policy admits connections that match a rule, and refuses all others.
    Allow,
    /// The policy refuses connections that match a rule.
    Deny,
}

/// The clients that see a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// All clients.
    #[default]
    Public,
    /// The pods of the service's namespace.
    Namespace,
}

/// How strictly endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LbMode {
    /// All endpoints are equal.
    Standard,
    /// Only endpoints that match every preference are used.
    Strict,
    /// The endpoints that match the most preferences are used.
    Failover,
    /// No endpoint is chosen; the connection keeps the address that the client dialled.
    Passthrough,
}

/// The property by which endpoints are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LbScope {
    /// The locality's region.
    Region,
    /// The locality's zone.
    Zone,
    /// The locality's subzone.
    Subzone,
    /// The node.
    Node,
    /// The cluster.
    Cluster,
    /// The network.
    Network,
}

/// The health that an endpoint needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthPolicy {
    /// Only ready endpoints are used.
    #[default]
    OnlyHealthy,
    /// All endpoints are used.
    AllowAll,
}

// === impl OneOrMany ===

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(de::value::StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = list.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany(many))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
