//! The telemetry actor: housekeeping of the metrics. Metrics and log work without it; while it is down, nothing but
//! the forgetting of idle series waits.

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::{metrics::Metrics, queue::LogQueue};
use crate::{
    actors::settings::HUNG_AFTER,
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(60);

/// The actor that keeps `metrics` tidy and reports on `log`.
pub fn child(metrics: &Arc<Metrics>, log: &LogQueue) -> ChildSpec {
    let (metrics, log) = (Arc::clone(metrics), log.clone());
    let make = move || (Telemetry { metrics: Arc::clone(&metrics), log: log.clone() }, ());
    ChildSpec::actor("telemetry", &Address::new("telemetry"), make)
        .kind_label("telemetry")
        .hung_after(HUNG_AFTER)
}

struct Telemetry {
    metrics: Arc<Metrics>,
    log: LogQueue,
}

/// Sent by the actor's own timer.
#[derive(Debug)]
enum Msg {
    /// A minute has passed.
    Tick,
}

// === impl Telemetry ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Tick => "tick",
        }
    }
}

impl Actor for Telemetry {
    type Msg = Msg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        myself.send_interval(EVERY, || Msg::Tick);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, Msg::Tick: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.metrics.sweep(Instant::now().into_std());
        self.metrics.log_lines_lost(self.log.lost());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::telemetry::queue::QueueLimits,
        protocols::labels::{Reporter, TrafficLabels},
        supervisor::{Strategy, SupervisorSpec, Tree},
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
}
