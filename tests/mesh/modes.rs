//! Proxies without a control plane, and a proxy for one workload without istio-cni.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use warren::lab::{
    control::ca::CaOptions,
    hosts::Role,
    net::redirect::Redirection,
    process::{Process, Program},
    testbed::readiness,
    testing::{program, scratch},
};

use crate::{
    logs::{line, log},
    support::*,
};

/// As [`MESH`], with a machine that no CNI hands over.
const WITH_VM: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: [echo 9000]}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, run: [echo 9000]}
  - {name: vm, serviceAccount: vm, node: two, ip: 10.77.2.5, captured: false, run: [echo 9000]}
";
/// The same, as a proxy reads it from a file.
const STATE: &str = "
workloads:
  - {name: client, namespace: default, serviceAccount: client, node: one, protocol: HBONE, workloadIps: [10.77.1.1], services: {}}
  - {name: near, namespace: default, serviceAccount: near, node: one, protocol: HBONE, workloadIps: [10.77.1.2], services: {}}
  - {name: server, namespace: default, serviceAccount: server, node: two, protocol: HBONE, workloadIps: [10.77.2.1], services: {default/web.example: {80: 9000}}}
  - {name: vm, namespace: default, serviceAccount: vm, protocol: HBONE, workloadIps: [10.77.2.5], services: {}}
services:
  - {name: web, namespace: default, hostname: web.example, vips: [/10.96.0.80], ports: {80: 9000}}
policies:
  - {name: no-near, namespace: default, scope: Namespace, action: Deny, dryRun: false, rules: [[[{serviceAccounts: [{namespace: default, serviceAccount: near}]}]]]}
";
const VM: &str = "10.77.2.5:9000";
const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/";

fn state_file() -> PathBuf {
    let path = scratch().join("state.yaml");
    fs::write(&path, STATE).unwrap();
    path
}

fn settings(file: &Path) -> [(&'static str, &str); 4] {
    [
        ("LOCAL_XDS_PATH", file.to_str().unwrap()),
        ("XDS_ADDRESS", ""),
        ("FAKE_CA", "true"),
        ("ISTIO_META_DNS_CAPTURE", "false"),
    ]
}

fn raise_without_control(file: &Path) -> Lab {
    raise_with(WITH_VM, &settings(file), CaOptions::default())
}

pub(crate) fn two_nodes_read_the_mesh_from_a_file_and_need_no_control_plane() {
    let file = state_file();
    let mut lab = raise_without_control(&file);
    open(&lab, "client", SERVER).unwrap();
    line(&lab, "one", &[("dst.hbone_addr", SERVER), ("dst.identity", &format!("{IDENTITY}server"))]);
    line(&lab, "two", &[("src.identity", &format!("{IDENTITY}client")), ("direction", "inbound")]);
    open(&lab, "client", "10.96.0.80:80").unwrap();
    line(&lab, "one", &[("dst.service", "web.example")]);
    assert!(is_turned_away(&ask(lab.pod("near").unwrap(), addr(SERVER))), "the policy of the file denies it");
    assert!(log(&lab, "one").contains("EVERYBODY KNOWS"), "there is no warning");
    assert_eq!(lab.services().control().unwrap().seen().borrow().streams, 0);
    assert_eq!(lab.services().control().unwrap().authority().issued().len(), 0);
}

/// Redirects the machine as a pod, and starts a proxy there for it alone.
fn dedicate(lab: &mut Lab, settings: &[(&str, &str)]) -> Process {
    lab.hosts_mut().redirect(Role::Pod, "default/vm", Redirection::default()).unwrap();
    let vm = lab.pod("vm").unwrap().clone();
    let mut dedicated = Program::new("dedicated", program("warren").unwrap())
        .log(lab.directory().join("dedicated.log"))
        .env("PROXY_MODE", "dedicated")
        .env("PROXY_WORKLOAD_INFO", "default/vm/vm")
        // The rules of the lab tell the proxy's packets by this mark.
        .env("PACKET_MARK", "1337");
    for (name, value) in settings {
        dedicated = dedicated.env(name, value);
    }
    let mut dedicated = dedicated.start(&vm).unwrap();
    eventually("readiness of the dedicated proxy", || {
        let ended = dedicated.status().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", dedicated.log_text());
        readiness(&vm).is_ok_and(|answer| answer.status == 200).then_some(())
    });
    dedicated
}

pub(crate) fn a_dedicated_proxy_hears_of_its_mesh_and_is_issued_its_own_identity_alone() {
    let mesh = WITH_VM.replace("captured: false", "captured: false, protocol: HBONE");
    let mut lab = raise(&mesh);
    let control = lab.services().control().unwrap().clone();
    let (address, root) = (format!("https://{}", control.addr()), control.root_pem_path().to_owned());
    let root = root.to_str().unwrap();
    let settings = [
        ("XDS_ADDRESS", &*address),
        ("CA_ADDRESS", &address),
        ("XDS_ROOT_CA", root),
        ("CA_ROOT_CA", root),
        ("AUTH_TOKEN", "a-token"),
        ("ISTIO_META_DNS_CAPTURE", "false"),
    ];
    let dedicated = dedicate(&mut lab, &settings);
    open(&lab, "client", VM).unwrap();
    line(&lab, "one", &[("dst.hbone_addr", VM), ("dst.identity", &format!("{IDENTITY}vm"))]);
    open(&lab, "vm", SERVER).unwrap();
    line(&lab, "two", &[("src.identity", &format!("{IDENTITY}vm")), ("direction", "inbound")]);
    // Each shared proxy has asked once for each workload of its node, which the machine is, too. The dedicated proxy has
    // asked for its own workload alone.
    let issued = control.authority().issued();
    let count = |name: &str| issued.iter().filter(|i| i.identity == format!("{IDENTITY}{name}")).count();
    assert_eq!(["vm", "client", "server"].map(count), [2, 1, 1], "{}", dedicated.log_text());
}

pub(crate) fn a_dedicated_proxy_serves_its_workload_and_talks_with_shared_ones() {
    let file = state_file();
    let mut lab = raise_without_control(&file);
    let mut dedicated = dedicate(&mut lab, &settings(&file));
    // To the workload: from a pod of a shared proxy, with the identities of both.
    open(&lab, "client", VM).unwrap();
    line(&lab, "one", &[("dst.hbone_addr", VM), ("dst.identity", &format!("{IDENTITY}vm"))]);
    // From the workload.
    open(&lab, "vm", SERVER).unwrap();
    line(&lab, "two", &[("src.identity", &format!("{IDENTITY}vm")), ("dst.workload", "server")]);
    // The policy of the file holds here, too.
    assert!(is_turned_away(&ask(lab.pod("near").unwrap(), addr(VM))));
    eventually("denial in the log of the dedicated proxy", || {
        dedicated.log_text().contains("explicitly denied by: default/no-near").then_some(())
    });
    dedicated.signal(libc::SIGTERM).unwrap();
    let status = dedicated.wait(LIMIT).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", dedicated.log_text());
}
