//! `/config_dump` of a running proxy, read by the types of istioctl and Kiali (docs/spec/controlplane.md 7.2).

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use serde::Deserialize;

use crate::{
    load::resident,
    support::{LIMIT, Lab, MESH, SERVER, addr, dial_from, echo, eventually, open, raise},
};

/// The parts that istioctl binds.
#[derive(Debug, Deserialize)]
struct ZtunnelDump {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<Policy>,
    certificates: Vec<Certificates>,
    #[serde(rename = "workloadState")]
    workload_state: BTreeMap<String, WorkloadState>,
    version: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    workload_ips: Vec<String>,
    name: String,
    namespace: String,
    service_account: String,
    protocol: String,
    node: String,
    status: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    hostname: String,
    vips: Vec<String>,
    ports: BTreeMap<u16, u16>,
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    workload_uid: String,
    port: BTreeMap<u16, u16>,
    status: String,
}

#[derive(Debug, Deserialize)]
struct Policy {
    name: String,
    action: String,
    scope: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificates {
    identity: String,
    state: String,
    cert_chain: Vec<Cert>,
    root_certs: Vec<Cert>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cert {
    pem: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
}

#[derive(Debug, Deserialize)]
struct WorkloadState {
    state: String,
    info: Info,
    connections: Connections,
}

#[derive(Debug, Deserialize)]
struct Info {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Connections {
    inbound: Vec<Connection>,
    outbound: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    src: String,
    original_dst: Option<String>,
    actual_dst: String,
    protocol: String,
}

fn ask(lab: &Lab, node: &str, path: &str) -> (u16, String) {
    let mut stream = dial_from(lab.node(node).unwrap(), addr("127.0.0.1:15000")).unwrap();
    // HTTP/1.0, so that the body comes without chunks and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn dump(lab: &Lab, node: &str) -> ZtunnelDump {
    let (status, body) = ask(lab, node, "/config_dump");
    assert_eq!(status, 200, "{body}");
    assert!(!body.contains("PRIVATE KEY"), "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

/// The only state of a pod called `name`.
fn state<'a>(dump: &'a ZtunnelDump, name: &str) -> &'a WorkloadState {
    dump.workload_state.values().find(|state| state.info.name == name).unwrap()
}

pub(crate) fn a_dump_shows_the_mesh_its_certificates_and_live_connections() {
    let lab = raise(&format!(
        "{MESH}
services:
  - {{name: web, vips: 10.96.0.80, ports: {{80: 9000}}, endpoints: [near, server]}}
policies:
  - {{name: deny, action: DENY, rules: [{{from: {{namespaces: [nowhere]}}}}]}}
"
    ));
    let mut direct = open(&lab, "client", SERVER).unwrap();
    let mut by_service = open(&lab, "client", "10.96.0.80:80").unwrap();
    echo(&mut direct, b"x").unwrap();
    echo(&mut by_service, b"x").unwrap();
    let one = dump(&lab, "one");
    let server = one.workloads.iter().find(|workload| workload.name == "server").unwrap();
    assert_eq!(
        (&*server.workload_ips[0], &*server.protocol, &*server.status),
        ("10.77.2.1", "HBONE", "Healthy")
    );
    assert_eq!((&*server.namespace, &*server.service_account, &*server.node), ("default", "server", "two"));
    let web = one.services.iter().find(|service| service.hostname.starts_with("web.")).unwrap();
    assert_eq!(
        (&web.vips[..], web.ports[&80], web.endpoints.len()),
        (&["/10.96.0.80".to_owned()][..], 9000, 2)
    );
    for (uid, endpoint) in &web.endpoints {
        assert_eq!((uid, &*endpoint.status), (&endpoint.workload_uid, "Healthy"));
        assert!(endpoint.port.get(&80).is_none_or(|port| *port == 9000), "{endpoint:?}");
    }
    let deny = one.policies.iter().find(|policy| policy.name == "deny").unwrap();
    assert_eq!((&*deny.action, &*deny.scope), ("Deny", "Namespace"));
    let client = one.certificates.iter().find(|cert| cert.identity.ends_with("/sa/client")).unwrap();
    assert_eq!(client.state, "Available");
    let leaf = &client.cert_chain[0];
    // The base64 form of "-----BEGIN CERTIFICATE-----".
    assert!(leaf.pem.starts_with("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"), "{leaf:?}");
    assert!(leaf.serial_number.bytes().all(|digit| digit.is_ascii_digit()), "{leaf:?}");
    assert!(leaf.valid_from.ends_with('Z') && leaf.expiration_time > leaf.valid_from, "{leaf:?}");
    assert!(!client.root_certs.is_empty() && one.version.contains_key("gitRevision"), "{one:?}");
    let outbound = &state(&one, "client").connections.outbound;
    assert_eq!((&*state(&one, "client").state, outbound.len()), ("Up", 2));
    let found = outbound.iter().find(|conn| conn.original_dst.as_deref() == Some(SERVER)).unwrap();
    assert_eq!((&*found.actual_dst, &*found.protocol), ("10.77.2.1:15008", "HBONE"));
    assert!(found.src.starts_with("10.77.1.1:"), "{found:?}");
    let two = dump(&lab, "two");
    let inbound = &state(&two, "server").connections.inbound;
    let found = inbound.iter().find(|conn| conn.original_dst.is_none()).unwrap();
    assert_eq!((&*found.actual_dst, &*found.protocol), (SERVER, "HBONE"));
    drop((direct, by_service));
    eventually("end of the connections in the dump", || {
        state(&dump(&lab, "one"), "client").connections.outbound.is_empty().then_some(())
    });
}

pub(crate) fn a_dump_shows_a_part_and_names_what_there_is() {
    let lab = raise(MESH);
    let (status, body) = ask(&lab, "one", "/config_dump?workload=default/client&only=workloads,certificates");
    let shown: BTreeMap<String, Vec<serde_json::Value>> = serde_json::from_str(&body).unwrap();
    assert_eq!((status, shown.len(), shown["workloads"].len()), (200, 2, 1));
    assert_eq!(shown["certificates"][0]["identity"], "spiffe://cluster.local/ns/default/sa/client");
    let (status, said) = ask(&lab, "one", "/config_dump?workload=default/nobody");
    assert_eq!(status, 404);
    assert!(said.contains("\"default/nobody\"") && said.contains("default/client"), "{said}");
    let (status, said) = ask(&lab, "one", "/config_dump?only=nothing");
    assert_eq!(status, 404);
    assert!(said.contains("workloadState"), "{said}");
}

/// Workloads beside those of the mesh's pods.
const MANY: u32 = 50_000;
/// The most memory that a dump may add.
const DUMP_BYTES: u64 = 16 << 20;

pub(crate) fn a_dump_of_many_workloads_adds_little_memory() {
    let mut lab = raise(MESH);
    lab.services().control().unwrap().set_bulk(MANY);
    lab.services().settle(4 * LIMIT).unwrap();
    // What is taken once, such as pages of the program and of a thread, is no part of what a dump adds.
    assert_eq!(ask(&lab, "one", "/config_dump?only=version").0, 200);
    let before = resident(&lab, "one");
    let mut stream = dial_from(lab.node("one").unwrap(), addr("127.0.0.1:15000")).unwrap();
    write!(stream, "GET /config_dump HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let (mut size, mut most, mut piece, mut end) = (0, before, vec![0; 256 << 10], Vec::new());
    loop {
        // The dump waits for its reader, so what it holds now is seen.
        match stream.read(&mut piece).unwrap() {
            0 => break,
            n => {
                size += n as u64;
                most = most.max(resident(&lab, "one"));
                end.extend_from_slice(&piece[..n]);
                end.drain(..end.len().saturating_sub(2));
            }
        }
    }
    assert_eq!(end, b"}\n", "the dump is complete");
    assert!(size > DUMP_BYTES + DUMP_BYTES / 2, "{size} bytes are too few to tell");
    assert!(most - before <= DUMP_BYTES, "a dump of {size} bytes added {} bytes", most - before);
}
