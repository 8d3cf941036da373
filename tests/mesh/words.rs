//! What peers say of themselves costs neither memory nor metrics without a bound.

use std::{net::SocketAddr, sync::Arc};

use http::{Method, Request};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use warren::{
    lab::{apps::background, net::Namespace},
    protocols::{
        config::Http2Config,
        hbone::client,
        tls::{WorkloadCert, buffer::Buffers, handshake},
    },
};

use crate::{
    metrics::metrics,
    policy::deny,
    support::*,
    tunnel::{certificate, id},
};

/// The tunnels of a peer, and the requests on each, which a server allows.
const TUNNELS: usize = 10;
const REQUESTS: usize = 150;

/// Sends requests from inside `namespace`, each with baggage of its own of `bytes` bytes, and keeps them open until all
/// are answered. The peer's network is another one, so that nobody knows the peer. Returns the statuses.
fn describe(namespace: &Namespace, to: SocketAddr, cert: &Arc<WorkloadCert>, bytes: usize) -> Vec<u16> {
    let config = cert.client_config(&[id("server").parse().unwrap()]);
    let asking = background(namespace, move |_| async move {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (mut tasks, mut held, mut statuses) =
                    (tokio::task::JoinSet::new(), Vec::new(), Vec::new());
                for tunnel in 0..TUNNELS {
                    let stream = TcpStream::connect(to).await.unwrap();
                    let name = ServerName::from(to.ip());
                    let (stream, _) =
                        handshake::connect(config.clone(), name, stream, Buffers::default()).await.unwrap();
                    let (send, connection) =
                        client::handshake(stream, &Http2Config::default()).await.unwrap();
                    tasks.spawn_local(async { drop(connection.await) });
                    for request in 0..REQUESTS {
                        let said = words(tunnel * REQUESTS + request, bytes);
                        let request = Request::builder()
                            .method(Method::CONNECT)
                            .uri(SERVER)
                            .header("baggage", said)
                            .header("x-forwarded-network", "elsewhere")
                            .body(())
                            .unwrap();
                        let mut send = send.clone().ready().await.unwrap();
                        let (response, up) = send.send_request(request, false).unwrap();
                        let response = response.await.unwrap();
                        statuses.push(response.status().as_u16());
                        held.push((response, up));
                    }
                }
                statuses
            })
            .await
    });
    asking.unwrap().wait().unwrap()
}

/// Baggage of `bytes` bytes that no other number has.
fn words(number: usize, bytes: usize) -> String {
    let filler = "x".repeat(bytes / 4);
    format!(
        "k8s.cluster.name=c{number}{filler},k8s.namespace.name=n{number}{filler},k8s.deployment.name=d{number}{filler},\
         service.name=s{number}{filler}"
    )
}

/// The size of a scrape, and the label sets of inbound connections.
fn scraped(lab: &Lab) -> (usize, usize) {
    let now = metrics(lab, "two");
    let sets = now.find("istio_tcp_connections_opened_total", &[("reporter", "destination")]).count();
    (now.bytes(), sets)
}

fn resident(lab: &Lab) -> u64 {
    lab.proxies().find(|(node, _)| *node == "two").unwrap().1.usage().unwrap().resident_bytes
}

pub(crate) fn what_fifteen_hundred_requests_say_of_their_peer_is_cut_and_has_a_quota() {
    /// Without a bound the scrape had 365 MB.
    const SCRAPE_MAX: usize = 4 << 20;
    /// Without a bound the memory grew by 182 MB.
    const GROWTH_MAX: u64 = 64 << 20;
    let mut lab = raise(MESH);
    let cert = certificate(&mut lab, &id("client"));
    let before = (resident(&lab), scraped(&lab).0);
    let statuses = describe(lab.pod("bare").unwrap(), addr("10.77.2.1:15008"), &cert, 60_000);
    assert_eq!(statuses, vec![200; TUNNELS * REQUESTS]);
    let ((bytes, sets), resident) = (scraped(&lab), resident(&lab));
    eprintln!("resident {} -> {resident}, scrape {} -> {bytes}, {sets} label sets", before.0, before.1);
    assert!(bytes < SCRAPE_MAX, "{bytes}");
    assert!(resident.saturating_sub(before.0) < GROWTH_MAX, "{resident}");
    // So many descriptions, and the identity alone.
    assert_eq!(sets, 128 + 1);
    let now = metrics(&lab, "two");
    let identity = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_workload_namespace", "default"),
    ];
    let (alone, all) = ((TUNNELS * REQUESTS - 128) as f64, (TUNNELS * REQUESTS) as f64);
    assert_eq!(now.sum("istio_tcp_connections_opened_total", &identity), alone);
    assert_eq!(now.sum("istio_tcp_connections_opened_total", &[("reporter", "destination")]), all);
    assert_eq!(now.sum("warren_traffic_undescribed_connections", &[]), alone);
}

pub(crate) fn a_peer_that_is_refused_is_counted_by_its_identity_and_not_by_its_words() {
    let mut lab = raise(&format!("{MESH}policies:\n{}", deny("no-client", "client", "server")));
    let cert = certificate(&mut lab, &id("client"));
    let statuses = describe(lab.pod("bare").unwrap(), addr("10.77.2.1:15008"), &cert, 10_000);
    assert_eq!(statuses, vec![401; TUNNELS * REQUESTS]);
    let (bytes, sets) = scraped(&lab);
    assert_eq!(sets, 1, "a scrape of {bytes} bytes");
    let principal = id("client");
    let labels = [
        ("response_flags", "DENY"),
        ("source_principal", &*principal),
        ("source_workload", "unknown"),
        ("source_workload_namespace", "default"),
    ];
    let all = (TUNNELS * REQUESTS) as f64;
    assert_eq!(metrics(&lab, "two").sum("istio_tcp_connections_closed_total", &labels), all);
    assert_eq!(metrics(&lab, "two").sum("warren_traffic_undescribed_connections", &[]), 0.0);
}
