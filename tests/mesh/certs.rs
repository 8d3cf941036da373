//! Certificates: renewed while they are in use, and an authority that is not there or talks nonsense.

use std::{net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use warren::lab::{
    apps::{Background, Route, Stop, background, echo},
    control::ca::{CaFault, CaOptions},
    hosts::Role,
};

use crate::{
    logs::line,
    metrics::metrics_show,
    support::{self, *},
    tunnel::id,
};

pub(crate) fn certificates_rotate_under_load_without_a_failure() {
    /// Certificates of each identity that must have come and gone.
    const ROTATIONS: usize = 4;
    // So that each of the connections below needs handshakes with the certificates of the moment.
    let settings = [("POOL_UNUSED_RELEASE_TIMEOUT", "50ms")];
    let ca = CaOptions { ttl: Some(Duration::from_secs(4)), ..CaOptions::default() };
    let mut lab = raise_with(MESH, &settings, ca);
    let plan = echo::Plan {
        connections: 4,
        interval: Duration::from_millis(20),
        time: 2 * LIMIT,
        limit: Duration::from_secs(10),
    };
    let mut live = echo::pace(&Route::new(lab.pod("client").unwrap(), addr(NEAR)), plan).unwrap();
    live.wait_until_open();
    let authority = lab.services().control().unwrap().authority().clone();
    let rotated = |name: &str| {
        let identity = id(name);
        authority.issued().iter().filter(|issued| issued.identity == identity).count() > ROTATIONS
    };
    let mut opened = 0;
    eventually("rotation of the certificates", || {
        open(&lab, "client", SERVER).unwrap();
        opened += 1;
        // Until the tunnel is gone.
        std::thread::park_timeout(Duration::from_millis(150));
        ["client", "server", "near"].into_iter().all(rotated).then_some(())
    });
    assert!(opened > ROTATIONS, "{opened}");
    let report = live.finish().unwrap();
    assert!(report.is_clean() && report.answered > 100, "{report:?}");
    for node in ["one", "two"] {
        metrics_show(&lab, node, "connection that failed: none", |metrics| {
            metrics.sum("istio_tcp_connections_failed_total", &[]) == 0.0
        });
    }
}

/// Passes connections on to the control plane until it is dropped, then refuses them.
fn forward(lab: &Lab, from: SocketAddr, to: SocketAddr) -> Background<()> {
    let control = lab.hosts().find(Role::Control, "control").unwrap().namespace();
    let listener = listen(control, from.port());
    listener.set_nonblocking(true).unwrap();
    let app = move |mut stop: Stop| async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let mut passing = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                accepted = listener.accept() => {
                    let mut here = accepted.unwrap().0;
                    passing.spawn(async move {
                        let mut there = TcpStream::connect(to).await?;
                        tokio::io::copy_bidirectional(&mut here, &mut there).await
                    });
                }
            }
        }
    };
    background(control, app).unwrap()
}

pub(crate) fn an_authority_in_trouble_costs_only_new_identities() {
    let (door, control) = (addr("10.77.0.254:15013"), addr("10.77.0.254:15012"));
    let settings = [
        ("CA_ADDRESS", "https://10.77.0.254:15013"),
        ("WARREN_CERTIFICATE_TIMEOUT", "1s"),
        ("WARREN_TLS_HANDSHAKE_TIMEOUT", "2s"),
    ];
    let mut mesh = MESH.to_owned();
    let mut lab = raise_with(&mesh, &settings, CaOptions::default());
    let mut forwarder = Some(forward(&lab, door, control));
    drop(open_at_last(&lab, "client", SERVER));
    let troubles = [
        ("refuses", CaFault::Fail("no such account".to_owned())),
        ("is-slow", CaFault::Slow(Duration::from_secs(60))),
        ("is-mute", CaFault::Mute),
        ("lies", CaFault::Garbage),
        ("is-down", CaFault::None),
    ];
    for (number, (trouble, fault)) in troubles.iter().enumerate() {
        lab.services().control().unwrap().faults().ca(fault.clone());
        if *trouble == "is-down" {
            forwarder = None;
        }
        // A pod with the identity that the server has already, and one with an identity nobody has.
        mesh.push_str(&format!(
            "  - {{name: old-{trouble}, serviceAccount: server, node: two, ip: 10.77.3.{number}, run: echo 9000}}
  - {{name: new-{trouble}, serviceAccount: {trouble}, node: one, ip: 10.77.4.{number}}}
"
        ));
        change(&mut lab, &mesh);
        open(&lab, "client", &format!("10.77.3.{number}:9000")).unwrap();
        let end = support::ask(lab.pod(&format!("new-{trouble}")).unwrap(), addr(SERVER));
        assert!(is_turned_away(&end), "{trouble}: {end:?}");
        let name = format!("new-{trouble}");
        let said = line(&lab, "one", &[("direction", "outbound"), ("src.workload", &name)]);
        let error = said.field("error");
        assert!(error.starts_with("identity error: ") && error.contains(&id(trouble)), "{said:#?}");
        metrics_show(&lab, "one", &format!("IDENTITY_ERROR of {name}"), |metrics| {
            let labels = [("source_workload", name.as_str()), ("response_flags", "IDENTITY_ERROR")];
            metrics.sum("istio_tcp_connections_closed_total", &labels) == 1.0
        });
        open(&lab, "client", SERVER).unwrap();
    }
    let why = line(&lab, "one", &[("src.workload", "new-refuses")]);
    assert!(why.field("error").contains("no such account"), "{why:#?}");
    assert!(forwarder.is_none());
    let _forwarder = forward(&lab, door, control);
    lab.services().control().unwrap().faults().ca(CaFault::None);
    for (trouble, _) in troubles {
        drop(open_at_last(&lab, &format!("new-{trouble}"), SERVER));
    }
}
