//! Responses of discovery: what is announced, what is refused, and what the tables hold after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;

use super::input::Input;
use crate::protocols::{
    mesh::{
        Change, Mesh,
        fixtures::{TestMesh, pod, service},
        policy::{Policy, PolicyChange},
        push_order,
    },
    pb::{
        ads::{DeltaDiscoveryResponse, Node, Resource},
        workload as pb,
    },
    xds::{
        Rejected, ResourceType, XdsState,
        delta::{Apply, DeltaStream, NACK_BYTES_MAX, Step},
    },
};

const HOSTS: [&str; 3] = ["web.ns1.svc.cluster.local", "db.ns1.svc.cluster.local", "*.example.com"];

/// A client, its tables, and what the control plane was last heard to have.
struct Client {
    state: XdsState,
    stream: DeltaStream,
    mesh: TestMesh,
    /// The last good version of each resource.
    good: BTreeMap<String, pb::Address>,
    now: Instant,
}

/// Responses with resources of any content, and new streams between them. The tables hold the last good resources, all
/// of them are announced, and nothing is left of them when they are removed.
pub fn xds(data: &[u8]) {
    let mut input = Input::new(data);
    let mut client = Client::new();
    for nonce in 0..24 {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0 => client.open(),
            1 => {
                if let Ok(response) = DeltaDiscoveryResponse::decode(input.bytes(2000)) {
                    // Its resources may have other names than their contents: the tables are not compared any more.
                    client.answer(response, &mut input);
                    return;
                }
            }
            2 => {
                let response = policies(&mut input, nonce);
                client.answer(response, &mut input);
            }
            _ => {
                let response = addresses(&mut input, nonce);
                client.learn(&response);
                client.answer(response, &mut input);
            }
        }
        client.check();
    }
    let removed_resources = client.good.keys().cloned().collect();
    let type_url = ResourceType::Address.type_url().to_owned();
    let response = DeltaDiscoveryResponse { type_url, removed_resources, ..Default::default() };
    client.learn(&response);
    client.answer(response, &mut input);
    client.check();
    let mesh = &client.mesh.mesh;
    assert_eq!((mesh.workload_count(), mesh.service_count()), (0, 0));
    assert!(mesh.all_endpoints().is_empty() && mesh.named_policies() == 0);
}

fn addresses(input: &mut Input<'_>, nonce: usize) -> DeltaDiscoveryResponse {
    let mut resources = Vec::new();
    for _ in 0..input.below(6) {
        let address = address(input);
        let name = name(&address);
        let any = (input.below(16) > 0)
            .then(|| prost_types::Any { value: address.encode_to_vec(), ..Default::default() });
        resources.push(Resource {
            name,
            version: input.byte().to_string(),
            resource: any,
            ..Default::default()
        });
    }
    let removed_resources = (0..input.below(3)).map(|_| name(&address(input))).collect();
    let (type_url, nonce) = (ResourceType::Address.type_url().to_owned(), nonce.to_string());
    DeltaDiscoveryResponse { type_url, nonce, resources, removed_resources, ..Default::default() }
}

fn policies(input: &mut Input<'_>, nonce: usize) -> DeltaDiscoveryResponse {
    let mut resources = Vec::new();
    for _ in 0..input.below(4) {
        let (name, value) = (format!("ns1/p{}", input.below(3)), input.bytes(100).to_vec());
        let resource = (input.below(8) > 0).then(|| prost_types::Any { value, ..Default::default() });
        resources.push(Resource { name, version: "1".into(), resource, ..Default::default() });
    }
    let removed_resources = (0..input.below(2)).map(|_| format!("ns1/p{}", input.below(3))).collect();
    let (type_url, nonce) = (ResourceType::Authorization.type_url().to_owned(), nonce.to_string());
    DeltaDiscoveryResponse { type_url, nonce, resources, removed_resources, ..Default::default() }
}

/// A workload or a service of few names and any other content.
fn address(input: &mut Input<'_>) -> pb::Address {
    let r#type = if input.flip() {
        let ip = format!("10.0.0.{}", input.below(4));
        let mut workload = pod(["a", "b", "c"][input.below(3)], &ip).0;
        let host = HOSTS[input.below(3)];
        for _ in 0..input.below(6) {
            edit_workload(input, &mut workload, host);
        }
        pb::address::Type::Workload(workload)
    } else {
        let vips = ["10.1.0.1", "10.1.0.0/16 fd00::1", "", "other/10.1.0.1"][input.below(4)];
        let mut service = service(HOSTS[input.below(3)], vips).0;
        for _ in 0..input.below(6) {
            edit_service(input, &mut service);
        }
        pb::address::Type::Service(service)
    };
    pb::Address { r#type: Some(r#type) }
}

fn edit_workload(input: &mut Input<'_>, workload: &mut pb::Workload, host: &str) {
    match input.below(14) {
        0 => workload.addresses.push(input.bytes(16).to_vec()),
        1 => workload.network = input.word(&["", "other"]),
        2 => workload.tunnel_protocol = input.byte().into(),
        3 => workload.trust_domain = input.word(&["", "cluster.local"]),
        4 => workload.hostname = input.word(&["", "a.example.com"]),
        5 => workload.node = input.word(&["node-1", "node-2", ""]),
        6 => workload.status = input.byte().into(),
        7 => {
            let ports = (0..input.below(3)).map(|_| pb::Port {
                service_port: input.u32() % 70_000,
                target_port: input.u32() % 70_000,
                ..Default::default()
            });
            workload.services.insert(format!("ns1/{host}"), pb::PortList { ports: ports.collect() });
        }
        8 => workload.authorization_policies.push(input.word(&["ns1/p0", "ns1/p1"])),
        9 => workload.network_mode = input.byte().into(),
        10 => workload.service_account = input.word(&["sa", "sa-2"]),
        11 => workload.cluster_id = input.word(&["Kubernetes", "other"]),
        12 => workload.capacity = Some(input.u32()),
        _ => {
            let destination = pb::gateway_address::Destination::Address(pb::NetworkAddress {
                network: String::new(),
                address: input.bytes(16).to_vec(),
                length: None,
            });
            let gateway =
                pb::GatewayAddress { destination: Some(destination), hbone_mtls_port: input.u16().into() };
            workload.waypoint = Some(gateway);
        }
    }
}

fn edit_service(input: &mut Input<'_>, service: &mut pb::Service) {
    match input.below(8) {
        0 => {
            let (address, length) = (input.bytes(16).to_vec(), input.flip().then(|| input.byte().into()));
            service.addresses.push(pb::NetworkAddress {
                network: input.word(&["", "other"]),
                address,
                length,
            });
        }
        1 => service.ports.push(pb::Port {
            service_port: input.u32() % 70_000,
            target_port: input.u32() % 70_000,
            ..Default::default()
        }),
        2 => service.subject_alt_names.push(input.word(&["spiffe://cluster.local/ns/ns1/sa/sa-a"])),
        3 => service.ip_families = input.byte().into(),
        4 => service.canonical = input.flip(),
        5 => {
            let balancing = pb::LoadBalancing {
                routing_preference: (0..input.below(4)).map(|_| input.byte().into()).collect(),
                mode: input.byte().into(),
                health_policy: input.byte().into(),
            };
            service.load_balancing = Some(balancing);
        }
        6 => service.visibility = input.byte().into(),
        _ => service.name = input.text(64),
    }
}

/// The name under which the control plane sends an address.
fn name(address: &pb::Address) -> String {
    match address.r#type.as_ref().unwrap() {
        pb::address::Type::Workload(workload) => workload.uid.clone(),
        pb::address::Type::Service(service) => format!("{}/{}", service.namespace, service.hostname),
    }
}

// === impl Client ===

impl Client {
    fn new() -> Self {
        let (state, now) = (XdsState::new(), Instant::now());
        let (stream, _) = DeltaStream::open(state.clone(), &Node::default(), false, now);
        Self { state, stream, mesh: TestMesh::new(), good: BTreeMap::new(), now }
    }

    /// Opens another stream, which announces all that the tables hold.
    fn open(&mut self) {
        let (stream, requests) = DeltaStream::open(self.state.clone(), &Node::default(), false, self.now);
        self.stream = stream;
        let [addresses, policies] = &requests[..] else { panic!("a stream begins with two requests") };
        let announced: BTreeSet<&String> = addresses.initial_resource_versions.keys().collect();
        let held: Vec<String> = names(&self.mesh.mesh).collect();
        assert!(
            held.iter().all(|name| announced.contains(name)),
            "{held:?} are held, {announced:?} announced"
        );
        let table = self.mesh.mesh.policies();
        for key in ["ns1/p0", "ns1/p1", "ns1/p2"] {
            let announced = policies.initial_resource_versions.contains_key(key);
            assert!(table.get(key).is_none() || announced, "{key} is held and not announced");
        }
    }

    /// What the tables should hold after a response: updates, and then those removals that it does not bring.
    fn learn(&mut self, response: &DeltaDiscoveryResponse) {
        let mut brought = BTreeSet::new();
        for resource in &response.resources {
            let Some(any) = &resource.resource else { continue };
            let address = pb::Address::decode(&*any.value).unwrap();
            if Change::decode(address.clone()).is_ok() {
                brought.insert(resource.name.clone());
                self.good.insert(resource.name.clone(), address);
            }
        }
        for name in response.removed_resources.iter().filter(|name| !brought.contains(*name)) {
            self.good.remove(name);
        }
    }

    fn answer(&mut self, response: DeltaDiscoveryResponse, input: &mut Input<'_>) {
        let (type_url, nonce) = (response.type_url.clone(), response.nonce.clone());
        self.now += Duration::from_secs(1);
        let (answer, rejected) = match self.stream.received(response) {
            Step::Answer(answer) => (answer, 0),
            Step::Apply(apply, pending) => {
                let rejected = self.apply(apply, input);
                (self.stream.applied(pending, &rejected, self.now), rejected.len())
            }
        };
        assert_eq!((answer.type_url, answer.response_nonce), (type_url, nonce));
        assert_eq!(answer.error_detail.is_some(), rejected > 0);
        if let Some(detail) = answer.error_detail {
            assert!((1..=NACK_BYTES_MAX).contains(&detail.message.len()));
        }
        assert!(self.stream.is_answered() && answer.resource_names_subscribe.is_empty());
    }

    /// Applies a response as the mesh actor does, in slices of any size.
    fn apply(&mut self, apply: Apply, input: &mut Input<'_>) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut refuse = |name: &str, reason: String, applied| {
            rejected.push(Rejected { name: name.to_owned(), reason, applied, later: None });
        };
        if apply.kind == ResourceType::Authorization {
            let mut changes = Vec::new();
            for Resource { name, resource, .. } in &apply.resources {
                let bytes = resource.as_ref().map(|any| any.value.as_slice());
                let Some(bytes) = bytes else {
                    refuse(name, "empty".into(), false);
                    continue;
                };
                let (policy, faults) = Policy::read(name, bytes);
                if !faults.is_empty() {
                    refuse(name, faults.to_string(), true);
                }
                changes.push(PolicyChange::Upsert(policy));
            }
            let brought: BTreeSet<&String> = apply.resources.iter().map(|resource| &resource.name).collect();
            let removed = apply.removed.iter().filter(|name| !brought.contains(name)).cloned();
            changes.extend(removed.map(PolicyChange::Remove));
            self.mesh.writer.set_policies(Arc::new(self.mesh.mesh.policies().with(changes)));
            self.mesh.writer.answered_policies();
            return rejected;
        }
        let mut changes = Vec::new();
        for Resource { name, resource, .. } in &apply.resources {
            let bytes = resource.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
            let address = pb::Address::decode(bytes).map_err(|error| error.to_string());
            match address.and_then(|address| Change::decode(address).map_err(|error| error.to_string())) {
                Ok(change) => changes.push(change),
                Err(reason) => refuse(name, reason, false),
            }
        }
        let mut changes = push_order(changes, apply.removed).peekable();
        while changes.peek().is_some() {
            let slice = 1 + input.below(4);
            self.mesh.writer.apply(changes.by_ref().take(slice));
        }
        rejected
    }

    /// The tables equal those that are made of the last good resources alone.
    fn check(&self) {
        let mut fresh = TestMesh::new();
        for address in self.good.values() {
            fresh.writer.apply([Change::decode(address.clone()).unwrap()].into_iter());
        }
        let (mesh, fresh) = (&self.mesh.mesh, &fresh.mesh);
        assert_eq!(contents(mesh), contents(fresh));
        assert_eq!(mesh.workload_count() + mesh.service_count(), self.good.len());
    }
}

fn names(mesh: &Mesh) -> impl Iterator<Item = String> {
    let workloads = mesh.all_workloads().into_iter().map(|workload| workload.uid().to_owned());
    workloads.chain(mesh.all_services().into_iter().map(|service| service.key().as_str().to_owned()))
}

/// All that tables hold, and what is found in them by addresses and names.
fn contents(mesh: &Mesh) -> Vec<String> {
    let mut all: Vec<String> = mesh.all_workloads().iter().map(|workload| format!("{workload:?}")).collect();
    all.extend(mesh.all_services().iter().map(|service| format!("{service:?}")));
    for endpoints in mesh.all_endpoints() {
        let mut of: Vec<&str> = endpoints.workloads().iter().map(|workload| workload.uid()).collect();
        of.sort_unstable();
        all.push(format!("{:?}: {of:?}", endpoints.service().as_str()));
    }
    for ip in ["10.1.0.1", "10.1.0.2", "fd00::1"] {
        for network in ["", "other"] {
            let found = mesh.service_by_vip(network, ip.parse().unwrap(), "ns1");
            all.push(format!("{network}/{ip}: {:?}", found.map(|service| service.key().as_str().to_owned())));
        }
    }
    all.extend(HOSTS.map(|host| format!("{host}: {}", mesh.services_by_host(host, "ns1").len())));
    all.sort_unstable();
    all
}
