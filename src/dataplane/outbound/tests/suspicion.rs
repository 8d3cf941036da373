//! Tests of what connections learn of next hops that failed, and of whom that concerns.

use std::io::ErrorKind;

use tokio::time::sleep;

use super::*;
use crate::dataplane::{testing::peers::DialPlan, tunnel::dialer::DialError};

/// A service of the pods "five" and "six" without HBONE, none of which is nearer. The service has two ports.
const EVEN: &str = "10.1.0.7:80";
const FIVE: &str = "10.0.0.15:8080";
const SIX: &str = "10.0.0.16:8080";
/// A service of the HBONE pods "seven" and "eight", none of which is nearer. The service has two ports.
const TUNNELLED: &str = "10.1.0.8:80";
const OTHER_PORT: &str = "10.1.0.8:81";
const SEVEN: &str = "10.0.0.17:15008";
const EIGHT: &str = "10.0.0.18:15008";

const EVEN_HOST: &str = "even.ns1.svc.cluster.local";
const TUNNELLED_HOST: &str = "tunnelled.ns1.svc.cluster.local";
/// Connections of which each endpoint gets some, unless one is passed over.
const MANY: usize = 30;

fn even_mesh() -> TestMesh {
    mesh()
        .with(pod("neighbour", "10.0.0.9").hbone().local())
        .with(service(EVEN_HOST, "10.1.0.7"))
        .with(five())
        .with(pod("six", "10.0.0.16").of(EVEN_HOST, &[]))
        .with(service(TUNNELLED_HOST, "10.1.0.8").ports(&[(80, 8080), (81, 8081)]))
        .with(pod("seven", "10.0.0.17").hbone().of(TUNNELLED_HOST, &[]))
        .with(pod("eight", "10.0.0.18").hbone().of(TUNNELLED_HOST, &[]))
}

fn five() -> crate::protocols::mesh::fixtures::Wl {
    pod("five", "10.0.0.15").of(EVEN_HOST, &[])
}

/// Makes `count` connections of `pod` to [`EVEN`], one after another. Returns the numbers of connects to [`FIVE`] and
/// to [`SIX`].
async fn connects(bed: &TestBed, pod: &TestPod, count: usize) -> (usize, usize) {
    let before = pod.network.dialled().len();
    for _ in 0..count {
        let mut conn = bed.connect(pod, &format!("{}:40000", pod.ip), EVEN);
        conn.app.finish().await;
        conn.app.end().await;
        conn.done().await;
    }
    let dialled = pod.network.dialled();
    let to = |to: &str| dialled[before..].iter().filter(|dialled| *dialled == to).count();
    (to(FIVE), to(SIX))
}

/// Makes [`SIX`] accept and close all connections of `pod`, and has `pod` find out that [`FIVE`] refuses.
async fn find_five_refusing(bed: &TestBed, pod: &TestPod) {
    serve(pod, SIX);
    let (five, six) = connects(bed, pod, MANY).await;
    assert_eq!((five, six), (1, MANY), "the clock stands still, so one refusal is enough");
}

/// Makes the endpoint `to` accept and close all connections of `pod`.
fn serve(pod: &TestPod, to: &'static str) {
    pod.network.plan(to, Plan::Accept);
    let network = pod.network.clone();
    crate::dataplane::testing::spawn(async move {
        loop {
            drop(network.accepted(to).await);
        }
    });
}

#[test]
fn what_one_pod_has_learned_moves_no_connection_of_another() {
    run(even_mesh(), async |bed| {
        let (pod, neighbour) = (client(bed), bed.pod("neighbour", "10.0.0.9"));
        find_five_refusing(bed, &pod).await;
        serve(&neighbour, FIVE);
        serve(&neighbour, SIX);
        let (five, six) = connects(bed, &neighbour, MANY).await;
        assert!(five > 5 && six > 5, "{five} {six}");
        assert!(neighbour.outbound.peers.suspicions.hops().is_empty());
    });
}

#[test]
fn an_endpoint_whose_application_answers_a_little_late_serves_soon() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        find_five_refusing(bed, &pod).await;
        serve(&pod, FIVE);
        assert_eq!(connects(bed, &pod, MANY).await.0, 0, "it is suspect for 100 ms");
        sleep(Duration::from_millis(100)).await;
        let (five, six) = connects(bed, &pod, MANY).await;
        assert!(five > 5 && six > 5, "{five} {six}");
        assert!(pod.outbound.peers.suspicions.hops().is_empty());
    });
}

#[test]
fn one_connection_at_a_time_tries_a_suspect() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        find_five_refusing(bed, &pod).await;
        sleep(Duration::from_millis(100)).await;
        pod.network.plan(FIVE, Plan::AcceptAfter(Duration::from_millis(500)));
        let before = pod.network.dialled().len();
        let conns: Vec<_> = (0..MANY).map(|_| bed.connect(&pod, CLIENT, EVEN)).collect();
        sleep(Duration::from_millis(10)).await;
        let tries = |from: usize| pod.network.dialled()[from..].iter().filter(|to| *to == FIVE).count();
        assert_eq!((tries(before), pod.network.dialled().len()), (1, before + MANY));
        // The trial succeeds, and from then on the endpoint gets its share.
        sleep(Duration::from_millis(500)).await;
        serve(&pod, FIVE);
        assert!(connects(bed, &pod, MANY).await.0 > 5);
        drop(conns);
    });
}

#[test]
fn a_trial_that_is_cut_lets_the_next_connection_try() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        find_five_refusing(bed, &pod).await;
        sleep(Duration::from_millis(100)).await;
        pod.network.plan(FIVE, Plan::Silent);
        let before = pod.network.dialled().len();
        let mut conns: Vec<_> = (0..MANY).map(|_| bed.connect(&pod, CLIENT, EVEN)).collect();
        sleep(Duration::from_millis(10)).await;
        assert_eq!(pod.network.dialled()[before..].iter().filter(|to| *to == FIVE).count(), 1);
        pod.conns.live.cut_all(crate::dataplane::pod::conns::cut::DRAIN);
        for conn in &mut conns {
            conn.done().await;
        }
        serve(&pod, FIVE);
        assert!(connects(bed, &pod, MANY).await.0 > 5);
    });
}

#[test]
fn a_push_of_the_workload_clears_it() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        find_five_refusing(bed, &pod).await;
        serve(&pod, FIVE);
        bed.push(five().capacity(2));
        assert!(connects(bed, &pod, MANY).await.0 > 5);
    });
}

#[test]
fn a_suspect_near_by_goes_before_an_endpoint_farther_away() {
    run(mesh(), async |bed| {
        let pod = client(bed);
        pod.network.plan(FOUR, Plan::Accept);
        for _ in 0..2 {
            let _conn = bed.connect(&pod, CLIENT, PLAIN_SERVICE);
            pod.network.accepted(FOUR).await;
        }
        assert_eq!(pod.network.dialled(), [THREE, FOUR, THREE, FOUR]);
    });
}

#[test]
fn what_the_pods_own_network_refuses_is_no_verdict_on_a_peer() {
    let kinds = [
        ErrorKind::NetworkUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::PermissionDenied,
        ErrorKind::AddrNotAvailable,
    ];
    for kind in kinds {
        run(even_mesh(), async |bed| {
            let pod = client(bed);
            serve(&pod, SIX);
            pod.network.plan(FIVE, Plan::Fail(kind));
            let (five, six) = connects(bed, &pod, MANY).await;
            assert!(five > 5 && six == MANY, "{kind}: {five} {six}");
            assert!(pod.outbound.peers.suspicions.hops().is_empty(), "{kind}");
        });
    }
}

#[test]
fn an_own_fault_of_a_dial_is_no_verdict_on_a_peer() {
    fn unreachable(to: SocketAddr) -> DialError {
        let error = ErrorKind::NetworkUnreachable.into();
        crate::dataplane::pod::network::ConnectFailed::Refused { to, error }.into()
    }
    fn own_certificate(to: SocketAddr) -> DialError {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        DialError::Tls { to, error: alert.into() }
    }
    for error in [unreachable, own_certificate] {
        run(even_mesh(), async |bed| {
            let pod = client(bed);
            pod.peers.plan(SEVEN, DialPlan::Fail(error));
            let (mut dials, mut open) = (0, Vec::new());
            while dials < 3 {
                open.push((bed.connect(&pod, CLIENT, TUNNELLED), pod.peers.asked(EIGHT).await));
                dials = pod.peers.dialled().iter().filter(|to| *to == SEVEN).count();
            }
            assert!(pod.outbound.peers.suspicions.hops().is_empty());
        });
    }
}

#[test]
fn a_503_for_one_port_does_not_count_against_another() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        // The peer "seven" does not serve the first port.
        let _open = loop {
            let mut conn = bed.connect(&pod, CLIENT, TUNNELLED);
            sleep(Duration::from_millis(1)).await;
            if let Some(asked) = pod.peers.asked_now(SEVEN) {
                asked.answer(503);
                break (conn, pod.peers.asked(EIGHT).await);
            }
            pod.peers.asked(EIGHT).await.answer(401);
            conn.done().await;
        };
        assert_eq!(pod.outbound.peers.suspicions.hops(), [addr(SEVEN)]);
        let ask = async |to: &str| {
            let mut conns = Vec::new();
            for _ in 0..MANY {
                conns.push(bed.connect(&pod, CLIENT, to));
            }
            sleep(Duration::from_millis(1)).await;
            std::iter::from_fn(|| pod.peers.asked_now(SEVEN)).count()
        };
        assert_eq!(ask(TUNNELLED).await, 0);
        assert!(ask(OTHER_PORT).await > 5);
    });
}

#[test]
fn where_nothing_failed_nothing_is_kept() {
    run(even_mesh(), async |bed| {
        let pod = client(bed);
        serve(&pod, FIVE);
        serve(&pod, SIX);
        connects(bed, &pod, MANY).await;
        assert!(pod.outbound.peers.suspicions.hops().is_empty());
    });
}
