//! Workloads, services and policies as JSON, in the shapes that istioctl and Kiali read (docs/spec/controlplane.md 7.2).

pub(crate) mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::mesh::{
    Endpoints, Service, Workload,
    gateway::{ApplicationTunnel, Gateway, TunnelHeader},
    policy::{self, Action, Attribute, Match, Policy, Text},
    service::{Balancing, BalancingMode, HealthPolicy, IpFamilies, Scope, Visibility},
    workload::{Membership, Status, TunnelProtocol},
};

/// The fields of an object. Keys come out sorted.
#[derive(Default)]
struct Fields(Map<String, Value>);

/// A workload. Fields without a value are left out, but for those that Kiali's pages need.
pub(crate) fn workload(workload: &Workload) -> Value {
    let place = workload.place();
    let mut locality = Fields::default();
    locality.text("region", &place.region).text("zone", &place.zone).text("subzone", &place.subzone);
    let locality = (!locality.0.is_empty()).then_some(locality.0);
    let services: Vec<&str> = workload.services().iter().map(|member| member.service.as_str()).collect();
    let mut fields = Fields::default();
    fields
        .set("workloadIps", workload.addresses().iter().map(ToString::to_string).collect::<Vec<_>>())
        .some("waypoint", workload.waypoint().map(gateway))
        .some("networkGateway", workload.network_gateway().map(gateway))
        .set("protocol", protocol(workload.protocol()))
        .set("networkMode", if workload.host_network() { "HostNetwork" } else { "Standard" })
        .text("uid", workload.uid())
        .set("name", workload.name())
        .set("namespace", workload.namespace())
        .text("trustDomain", workload.trust_domain())
        .text("serviceAccount", workload.service_account())
        .text("network", &place.network)
        .text("workloadName", workload.workload_name())
        .text("workloadType", workload.workload_type().as_str())
        .text("canonicalName", workload.canonical_name())
        .text("canonicalRevision", workload.canonical_revision())
        .text("hostname", workload.hostname().map_or("", |name| name))
        .text("node", &place.node)
        .some("nativeTunnel", workload.native_tunnel().then_some(true))
        .some("applicationTunnel", workload.application_tunnel().map(application_tunnel))
        .list("authorizationPolicies", workload.policies().iter().map(|key| Value::from(&**key)))
        .set("status", status(workload.status()))
        .set("clusterId", &*place.cluster_id)
        .some("locality", locality)
        .list("services", services)
        .set("capacity", workload.capacity());
    fields.0.into()
}

/// A service with those of its endpoints that its health policy admits.
pub(crate) fn service(service: &Service, endpoints: Option<&Endpoints>) -> Value {
    let admitted = endpoints.map_or(&[][..], Endpoints::workloads).iter().filter(|w| service.admits(w));
    let weighted = service.weighted_waypoints().iter();
    let mut fields = Fields::default();
    fields
        .set("name", service.name())
        .set("namespace", service.namespace())
        .set("hostname", service.hostname())
        .set(
            "vips",
            service.vips().iter().map(|vip| format!("{}/{}", vip.network, vip.ip)).collect::<Vec<_>>(),
        )
        .list(
            "cidrVips",
            service
                .cidr_vips()
                .iter()
                .map(|vip| json!({"network": &*vip.network, "cidr": vip.cidr.to_string()})),
        )
        .set("ports", ports(service.ports().iter()))
        .set("endpoints", endpoint_map(admitted, service.key().as_str()))
        .set("subjectAltNames", service.sans().iter().map(ToString::to_string).collect::<Vec<_>>())
        .some("waypoint", service.waypoint().map(gateway))
        .list(
            "weightedWaypoints",
            weighted.map(|entry| json!({"destination": gateway(&entry.gateway), "weight": entry.weight})),
        )
        .some("loadBalancer", load_balancer(service.balancing()))
        .some(
            "ipFamilies",
            service.ip_families().map(|families| match families {
                IpFamilies::Dual => "Dual",
                IpFamilies::V4 => "IPv4",
                IpFamilies::V6 => "IPv6",
            }),
        )
        .set("canonical", service.canonical())
        .set(
            "visibility",
            match service.visibility() {
                Visibility::Public => "Public",
                Visibility::Namespace => "Namespace",
            },
        );
    fields.0.into()
}

/// The endpoints of a service that the control plane has not sent yet.
pub(crate) fn staged(endpoints: &Endpoints) -> Value {
    endpoint_map(endpoints.workloads().iter(), endpoints.service().as_str())
}

fn endpoint_map<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>, key: &str) -> Value {
    let endpoint = |workload: &Arc<Workload>| {
        let member = workload.services().iter().find(|member| member.service.as_str() == key);
        let ports = ports(member.map(|member: &Membership| member.ports.iter()).into_iter().flatten());
        let endpoint =
            json!({"workloadUid": workload.uid(), "port": ports, "status": status(workload.status())});
        (workload.uid().to_owned(), endpoint)
    };
    workloads.map(endpoint).collect::<Map<_, _>>().into()
}

/// A policy.
pub(crate) fn policy(policy: &Policy) -> Value {
    let clauses = |rule: &policy::Rule| -> Value {
        let matches = |clause: &policy::Clause| clause.matches().iter().map(matching).collect::<Value>();
        rule.clauses().iter().map(matches).collect()
    };
    json!({
        "name": policy.name(),
        "namespace": policy.namespace(),
        "scope": match policy.scope() {
            policy::Scope::Global => "Global",
            // An unknown scope applies as that of a namespace.
            policy::Scope::Namespace | policy::Scope::Unknown => "Namespace",
            policy::Scope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match policy.action() {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "dryRun": policy.is_dry_run(),
        "rules": policy.rules().iter().map(clauses).collect::<Value>(),
    })
}

fn matching(matching: &Match) -> Value {
    let mut fields = Fields::default();
    for test in matching.tests() {
        let (key, negated, values): (_, _, Value) = match &test.attribute {
            Attribute::DestinationPorts(ports) => {
                ("destinationPorts", "notDestinationPorts", ports.iter().copied().collect())
            }
            Attribute::DestinationIps(nets) => {
                ("destinationIps", "notDestinationIps", nets.iter().map(ToString::to_string).collect())
            }
            Attribute::SourceIps(nets) => {
                ("sourceIps", "notSourceIps", nets.iter().map(ToString::to_string).collect())
            }
            Attribute::ServiceAccounts(accounts) => {
                let account = |account: &policy::ServiceAccount| json!({"namespace": &*account.namespace, "serviceAccount": &*account.name});
                ("serviceAccounts", "notServiceAccounts", accounts.iter().map(account).collect())
            }
            Attribute::Namespaces(texts) => ("namespaces", "notNamespaces", texts.iter().map(text).collect()),
            Attribute::Principals(texts) => ("principals", "notPrincipals", texts.iter().map(text).collect()),
        };
        fields.set(if test.negated { negated } else { key }, values);
    }
    fields.0.into()
}

fn text(text: &Text) -> Value {
    match text {
        Text::Exact(text) => json!({"Exact": &**text}),
        Text::Prefix(text) => json!({"Prefix": &**text}),
        Text::Suffix(text) => json!({"Suffix": &**text}),
        Text::Presence => json!({"Presence": []}),
    }
}

fn gateway(gateway: &Gateway) -> Value {
    json!({"destination": gateway.destination.to_string(), "hboneMtlsPort": gateway.hbone_port})
}

fn application_tunnel(tunnel: ApplicationTunnel) -> Value {
    let protocol = match tunnel.protocol {
        TunnelHeader::None => "NONE",
        TunnelHeader::Proxy => "PROXY",
    };
    json!({"protocol": protocol, "port": tunnel.port})
}

/// The load balancing of a service; `None` for the default.
fn load_balancer(balancing: &Balancing) -> Option<Value> {
    let preference = |scope: &Scope| match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    };
    let value = json!({
        "routingPreferences": balancing.preferences.iter().map(preference).collect::<Vec<_>>(),
        "mode": match balancing.mode {
            BalancingMode::Standard => "Standard",
            BalancingMode::Strict => "Strict",
            BalancingMode::Failover => "Failover",
            BalancingMode::Passthrough => "Passthrough",
        },
        "healthPolicy": match balancing.health {
            HealthPolicy::OnlyHealthy => "OnlyHealthy",
            HealthPolicy::AllowAll => "AllowAll",
        },
    });
    (*balancing != Balancing::default()).then_some(value)
}

fn ports(ports: impl Iterator<Item = (u16, u16)>) -> Value {
    ports.map(|(service, target)| (service.to_string(), Value::from(target))).collect::<Map<_, _>>().into()
}

fn protocol(protocol: TunnelProtocol) -> &'static str {
    match protocol {
        TunnelProtocol::Tcp => "TCP",
        TunnelProtocol::Hbone => "HBONE",
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Healthy => "Healthy",
        Status::Unhealthy => "Unhealthy",
    }
}

// === impl Fields ===

impl Fields {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Leaves out an empty text.
    fn text(&mut self, key: &'static str, text: &str) -> &mut Self {
        self.some(key, (!text.is_empty()).then_some(text))
    }

    fn some(&mut self, key: &'static str, value: Option<impl Into<Value>>) -> &mut Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Leaves out an empty list.
    fn list(&mut self, key: &'static str, values: impl IntoIterator<Item = impl Into<Value>>) -> &mut Self {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        self.some(key, (!values.is_empty()).then_some(values))
    }
}
