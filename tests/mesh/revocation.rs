//! Revocation lists: whoever they name is cut on both nodes and kept out, and nobody else is.

use std::{fs, io::Write, net::TcpStream};

use warren::lab::{control::ca::CaOptions, testing::scratch};

use crate::{metrics::metrics_show, support::*, tunnel::id};

/// Waits until the node's proxy has counted a peer that was refused or cut for a list.
fn rejects(lab: &Lab, node: &str, reporter: &str) {
    metrics_show(lab, node, "revoked peer", |metrics| {
        metrics.sum("istio_crl_policy_rejections_total", &[("reporter", reporter)]) > 0.0
    });
}

/// Waits until the node's proxy has counted a connection that ended because of a list.
fn flags(lab: &Lab, node: &str, reporter: &str) {
    metrics_show(lab, node, "connection that a list has ended", |metrics| {
        let labels = [("reporter", reporter), ("response_flags", "CERT_REVOKED")];
        metrics.sum("istio_tcp_connections_closed_total", &labels) > 0.0
    });
}

/// Waits for the end of a connection that is idle.
fn is_cut(mut stream: TcpStream) {
    let end = end_of(&mut stream);
    assert!(is_turned_away(&end), "{end:?}");
}

pub(crate) fn revoked_pods_are_cut_and_refused_on_both_sides_until_a_list_forgets_them() {
    let path = scratch().join("ca-crl.pem");
    let mut lab = raise_with(MESH, &[("CRL_PATH", path.to_str().unwrap())], CaOptions::default());
    let authority = lab.services().control().unwrap().authority().clone();
    let revoke = |pods: &[&str]| {
        let ids: Vec<String> = pods.iter().map(|pod| id(pod)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let list = authority.revocation_list(&ids).unwrap();
        // The file is there all at once, as a ConfigMap's is.
        let beside = path.with_extension("new");
        fs::File::create(&beside).unwrap().write_all(list.as_bytes()).unwrap();
        fs::rename(&beside, &path).unwrap();
    };
    // Without the file everybody is served.
    let through = open(&lab, "client", SERVER).unwrap();
    let local = open(&lab, "client", NEAR).unwrap();
    let mut beside = open(&lab, "near", SERVER).unwrap();

    // The server's node cuts the client's tunnel, and the client's node its local hop.
    revoke(&["client"]);
    is_cut(through);
    is_cut(local);
    rejects(&lab, "two", "destination");
    flags(&lab, "two", "destination");
    flags(&lab, "one", "source");
    open(&lab, "client", SERVER).unwrap_err();
    open(&lab, "client", NEAR).unwrap_err();
    echo(&mut beside, b"nobody else").unwrap();

    // A list without the client lets it in again.
    revoke(&[]);
    drop(open_at_last(&lab, "client", SERVER));
    drop(open_at_last(&lab, "client", NEAR));
    echo(&mut beside, b"still nobody else").unwrap();

    // The clients' node cuts the tunnels to the server.
    let local = open(&lab, "client", NEAR).unwrap();
    revoke(&["server"]);
    is_cut(beside);
    rejects(&lab, "one", "source");
    flags(&lab, "one", "source");
    open(&lab, "near", SERVER).unwrap_err();
    let mut local = local;
    echo(&mut local, b"not the server").unwrap();
}
