//! Endpoints that have only a name (docs/spec/dataplane.md 3.3): who asks the name server, how often, and at what cost.

use std::{
    io::Write,
    net::{IpAddr, TcpStream},
};

use hickory_proto::rr::RecordType::{A, AAAA};

use crate::{metrics::metrics, names::*, support::*};

/// The service that has one endpoint, which has no address but this name.
const HOSTED: &str = "10.96.0.70:80";

fn raise_hosted(host: &str, resolv: &str, settings: &[(&str, &str)]) -> Named {
    let mesh = NAMED
        .replace(
            "outside:",
            &format!(
                "  - {{name: hosted, serviceAccount: hosted, node: two, ip: 10.77.2.7, captured: false, announce: {{hostname: {host}}}}}\noutside:"
            ),
        )
        .replace("services:", "services:\n  - {name: hosted, vips: 10.96.0.70, ports: {80: 9100}, endpoints: [hosted]}");
    Named::raise_with(&mesh, resolv, settings)
}

/// The questions for this name.
fn asked(named: &Named, name: &str) -> Vec<Asked> {
    named.server.asked().into_iter().filter(|asked| asked.name == name).collect()
}

/// A connection to the endpoint, which a server answers that listens where the name leads.
fn talks(named: &Named, listener: &std::net::TcpListener) {
    let mut client = dial(&named.lab, "client", HOSTED).unwrap();
    client.write_all(b"x").unwrap();
    let mut served = accept(listener);
    let mut heard = [0; 1];
    std::io::Read::read_exact(&mut served, &mut heard).unwrap();
}

/// A connection to the endpoint that leads nowhere.
fn fails(named: &Named) {
    let mut client = dial(&named.lab, "client", HOSTED).unwrap();
    assert!(is_turned_away(&end_of(&mut client)));
}

fn counted(named: &Named, host: &str) -> f64 {
    metrics(&named.lab, "one").sum("istio_on_demand_dns_total", &[("hostname", host)])
}

pub(crate) fn a_name_is_asked_for_once_by_the_node_while_its_answer_lives_and_counted_each_time() {
    let named = raise_hosted("app.example.com", RESOLV, &[]);
    let listener = listen(named.lab.outside("names").unwrap(), 9100);
    for _ in 0..5 {
        talks(&named, &listener);
    }
    let asked = asked(&named, "app.example.com.");
    let mut kinds: Vec<_> = asked.iter().map(|asked| asked.kind).collect();
    kinds.sort();
    assert_eq!(kinds, [A, AAAA]);
    let node: IpAddr = "10.77.0.1".parse().unwrap();
    assert!(asked.iter().all(|asked| asked.from == node), "{asked:?}");
    assert_eq!(counted(&named, "app.example.com"), 5.0);
}

pub(crate) fn an_answer_that_has_lived_is_asked_for_again() {
    let named = raise_hosted("brief.example.com", RESOLV, &[("IPV6_ENABLED", "false")]);
    let listener = listen(named.lab.outside("names").unwrap(), 9100);
    talks(&named, &listener);
    eventually("second question", || {
        talks(&named, &listener);
        (asked(&named, "brief.example.com.").len() > 1).then_some(())
    });
    // One family was enough.
    assert!(asked(&named, "brief.example.com.").iter().all(|asked| asked.kind == A));
}

pub(crate) fn a_name_that_does_not_exist_is_remembered() {
    let named = raise_hosted("nowhere.example.com", RESOLV, &[]);
    for _ in 0..3 {
        fails(&named);
    }
    assert_eq!(asked(&named, "nowhere.example.com.").len(), 2);
    // With fewer dots than asked for, the search domain went first.
    assert_eq!(asked(&named, "nowhere.example.com.example.com.").len(), 2);
    assert_eq!(counted(&named, "nowhere.example.com"), 3.0);
}

pub(crate) fn the_search_list_of_the_node_completes_a_name() {
    let named = raise_hosted("app", RESOLV, &[]);
    let listener = listen(named.lab.outside("names").unwrap(), 9100);
    talks(&named, &listener);
    assert_eq!(asked(&named, "app.example.com.").len(), 2);
    assert_eq!(asked(&named, "app.").len(), 0);
}

pub(crate) fn eighty_connections_to_a_mute_name_server_share_one_lookup_and_take_no_thread() {
    let named = raise_hosted("mute.example.com", &RESOLV.replace("search example.com\n", ""), &[]);
    let threads = || {
        let (_, process) = named.lab.proxies().find(|(node, _)| *node == "one").unwrap();
        process.usage().unwrap().threads
    };
    // The service is there, and the proxy at rest.
    assert_eq!(counted(&named, "mute.example.com"), 0.0);
    let before = threads();
    let mut clients: Vec<TcpStream> = (0..80).map(|_| dial(&named.lab, "client", HOSTED).unwrap()).collect();
    eventually("eighty connections that wait for the name", || {
        (counted(&named, "mute.example.com") == 80.0).then_some(())
    });
    // Two more may be those of the scrape just before.
    assert!(threads() <= before + 2, "{} threads after {before}", threads());
    // Others are served meanwhile.
    open(&named.lab, "client", "10.96.0.80:80").unwrap();
    for client in &mut clients {
        assert!(is_turned_away(&end_of(client)));
    }
    // One lookup has two attempts for each family; a second one can begin once the failure has lived.
    let asked = asked(&named, "mute.example.com.").len();
    assert!(asked <= 8, "{asked} questions for 80 connections");
}
