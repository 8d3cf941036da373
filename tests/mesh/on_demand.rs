//! Discovery on demand: what a connection needs is asked for, once.

use warren::lab::control::ca::CaOptions;

use crate::{
    logs::{line, log},
    support::*,
};

const ON_DEMAND: [(&str, &str); 3] = [
    ("XDS_ON_DEMAND", "true"),
    ("ISTIO_META_DNS_CAPTURE", "false"),
    // A connection that waits for an answer in vain is refused after this time.
    ("WARREN_WORKLOAD_TIMEOUT", "2s"),
];
const SERVICE: &str = "10.96.0.80:80";

/// The names that the proxies have asked for.
fn asked(lab: &mut Lab) -> u64 {
    lab.services().control().unwrap().seen().borrow().names
}

pub(crate) fn an_unknown_destination_is_asked_for_once_and_is_reached_by_a_tunnel() {
    let mut lab = raise_with(MESH, &ON_DEMAND, CaOptions::default());
    open(&lab, "client", SERVER).unwrap();
    line(&lab, "one", &[("dst.hbone_addr", SERVER), ("direction", "outbound")]);
    // The other node asks for the client, to name it in its metrics.
    open(&lab, "client", SERVER).unwrap();
    let known = asked(&mut lab);
    assert!(known > 0);
    for _ in 0..20 {
        open(&lab, "client", SERVER).unwrap();
    }
    assert_eq!(asked(&mut lab), known, "what is known is not asked for");
    // An address that is none of the mesh is asked for once, too.
    for _ in 0..20 {
        // The node itself, where nobody listens.
        assert!(is_turned_away(&ask(lab.pod("client").unwrap(), addr("10.77.0.2:81"))));
    }
    assert!(asked(&mut lab) <= known + 1);
}

pub(crate) fn a_service_is_asked_for_by_its_address_and_brings_its_endpoints() {
    let mesh = format!(
        "{MESH}services:\n  - {{name: web, vips: 10.96.0.80, ports: {{80: 9000}}, endpoints: [server]}}\n"
    );
    let mut lab = raise_with(&mesh, &ON_DEMAND, CaOptions::default());
    open(&lab, "client", SERVICE).unwrap();
    line(&lab, "one", &[("dst.hbone_addr", SERVER), ("dst.service", "web.default.svc.cluster.local")]);
    // What was asked for is followed: the service now has another endpoint.
    let moved = mesh.replace("endpoints: [server]", "endpoints: [near]");
    change(&mut lab, &moved);
    eventually("a connection to the new endpoint", || {
        open(&lab, "client", SERVICE).unwrap();
        log(&lab, "one").contains("dst.workload=\"near\"").then_some(())
    });
}

pub(crate) fn without_a_control_plane_what_is_known_is_reached_and_the_rest_says_what_it_waits_for() {
    let mut lab = raise_with(MESH, &ON_DEMAND, CaOptions::default());
    open(&lab, "client", SERVER).unwrap();
    lab.services().control().unwrap().faults().mute_discovery(true);
    open(&lab, "client", SERVER).unwrap();
    let end = ask(lab.pod("client").unwrap(), addr("10.77.2.9:8080"));
    assert!(is_turned_away(&end), "{end:?}");
    let why = "timed out waiting for the control plane to answer for /10.77.2.9";
    line(&lab, "one", &[("dst.addr", "10.77.2.9:8080"), ("error", why)]);
    lab.services().control().unwrap().faults().mute_discovery(false);
    open_at_last(&lab, "client", BARE);
}
