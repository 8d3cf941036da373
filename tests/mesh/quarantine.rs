//! Input that crashes its handler is set aside, and costs nobody else anything.

use std::io::{Read, Write};

use crate::{
    logs,
    metrics::metrics_show,
    policy::{deny, turned_away},
    support::*,
};

/// Asks the admin port of a node's proxy.
fn admin(lab: &Lab, node: &str, request: &str) -> String {
    eventually("answer of the admin port", || {
        let mut stream = dial_from(lab.node(node).unwrap(), addr("127.0.0.1:15000")).ok()?;
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    })
}

fn raise_breakable(mesh: &str) -> Lab {
    raise_with(mesh, &[("WARREN_CHAOS", "true")], Default::default())
}

/// Waits until one input of this kind is set aside, and is listed by its name.
fn set_aside(lab: &Lab, node: &str, kind: &str, name: &str) {
    let labels = [("kind", kind)];
    metrics_show(lab, node, "quarantine", |metrics| metrics.sum("warren_quarantined", &labels) == 1.0);
    let listed = admin(lab, node, "GET /quarantine");
    assert!(listed.contains(kind) && listed.contains(name), "{listed}");
}

pub fn a_resource_that_crashed_the_tables_twice_is_set_aside_and_the_rest_applies() {
    let mut lab = raise_breakable(&format!("{MESH}policies:\n{}", deny("changing", "near", "server")));
    turned_away(&lab, "near", SERVER);
    open(&lab, "client", SERVER).unwrap();
    admin(&lab, "two", "POST /inputs/default/changing/panic?times=2");
    let (changed, another) = (deny("changing", "bare", "server"), deny("another", "client", "server"));
    change(&mut lab, &format!("{MESH}policies:\n{changed}{another}"));
    set_aside(&lab, "two", "resource", "default/changing");
    eventually("refusal by name", || {
        let seen = lab.services().control().unwrap().seen();
        let seen = seen.borrow();
        let told = |text: &str| text.contains("default/changing") && text.contains("quarantined: crashed");
        seen.latest_nacks.iter().any(|nack| told(&nack.message)).then_some(())
    });
    turned_away(&lab, "client", SERVER);
    // The version before the change still holds.
    turned_away(&lab, "near", SERVER);
}

pub fn a_peer_that_crashed_its_tunnel_twice_is_not_dialled_for_a_while() {
    let lab = raise_breakable(MESH);
    admin(&lab, "one", "POST /inputs/10.77.2.1:15008/panic?times=2");
    eventually("quarantine of the peer", || {
        assert!(open(&lab, "client", SERVER).is_err(), "it was to panic");
        admin(&lab, "one", "GET /quarantine").contains("10.77.2.1:15008").then_some(())
    });
    set_aside(&lab, "one", "peer", "10.77.2.1:15008");
    assert!(open(&lab, "client", SERVER).is_err());
    eventually("reason in the log", || logs::log(&lab, "one").contains("quarantined: crashed").then_some(()));
    open(&lab, "client", NEAR).unwrap();
}
