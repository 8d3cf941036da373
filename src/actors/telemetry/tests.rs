//! The actor, and in a module of its own a collector behind TLS.

mod tls;

use super::*;
use crate::{
    protocols::labels::{Reporter, TrafficLabels},
    supervisor::{Strategy, SupervisorSpec, Tree},
    telemetry::{queue::QueueLimits, refusals::Sample},
};

#[tokio::test(start_paused = true)]
async fn idle_series_are_forgotten_and_a_kill_forgets_nothing_else() {
    let metrics = Metrics::new("x").unwrap();
    let log = LogQueue::start(std::io::sink(), QueueLimits::default()).unwrap();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(child(&metrics, &log));
    let tree = Tree::start(spec).await.unwrap();
    let has_traffic = || metrics.encode().contains("istio_tcp_connections_opened");

    let open = metrics.traffic(&TrafficLabels::unknown(Reporter::Source));
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert!(has_traffic(), "a connection is open");
    tree.handle().kill("root/telemetry").unwrap();
    while tree.handle().find("root/telemetry").unwrap().restarts == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(has_traffic(), "the metrics are not the actor's");
    drop(open);
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert!(has_traffic());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!has_traffic());
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn at_its_end_no_refused_connection_is_left_that_the_log_was_not_told_of() {
    let metrics = Metrics::new("x").unwrap();
    let log = LogQueue::start(std::io::sink(), QueueLimits::default()).unwrap();
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(child(&metrics, &log));
    let tree = Tree::start(spec).await.unwrap();
    let (peer, now) = ("10.0.0.1".parse().unwrap(), Instant::now().into_std());
    while metrics.refusals.sample(peer, now) != Sample::LeftOut {}
    tree.stop().await;
    // The next line of this client would have their number.
    let later = now + Duration::from_secs(60);
    assert_eq!(metrics.refusals.sample(peer, later), Sample::Written { left_out: 0 });
}
