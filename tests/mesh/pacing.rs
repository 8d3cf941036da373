//! Which congestion control the sockets in pods have, asked of the kernel.

use std::{collections::BTreeSet, fs};

use warren::lab::control::ca::CaOptions;

use crate::{
    diag::{Port, congestion},
    support::*,
};

pub(crate) fn tunnels_to_near_peers_are_not_paced_and_those_to_far_ones_are_as_the_host_has_it() {
    // No handshake takes as long as the first, and all take as long as the second.
    for (limit, is_near) in [("1s", true), ("1us", false)] {
        let lab = raise_with(MESH, &[("WARREN_UNPACED_RTT", limit)], CaOptions::default());
        let (client, server) = (lab.pod("client").unwrap(), lab.pod("server").unwrap());
        let usual = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        let usual = client.run(usual).unwrap().trim().to_owned();
        let unless_paced =
            |name: &str| BTreeSet::from([if usual == "bbr" { name } else { &usual }.to_owned()]);
        let _open = open_at_last(&lab, "client", SERVER);
        let tunnel = unless_paced(if is_near { "cubic" } else { "bbr" });
        for (what, namespace, port, expected) in [
            ("the tunnel's client", client, Port::Peer(15008), &tunnel),
            ("the tunnel's server", server, Port::Own(15008), &tunnel),
            ("the connection from the client", client, Port::Own(15001), &unless_paced("reno")),
            ("the connection to the application", server, Port::Peer(9000), &unless_paced("reno")),
        ] {
            let found = BTreeSet::from_iter(congestion(namespace, port));
            assert_eq!(found, *expected, "{what}, limit {limit}, usually {usual}");
        }
    }
}
