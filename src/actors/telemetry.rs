//! Telemetry that knows actors: metrics and traces of the tree, the panic hook, the dialer of collectors. And the
//! telemetry actor: housekeeping of the metrics. Metrics and log work without it; while it is down, nothing but
//! the forgetting of idle series waits.

mod dialer;
mod load;
mod outage;
pub mod panics;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::HUNG_AFTER;
use crate::{
    supervisor::{self, Actor, ActorRef, Address, ChildSpec, Described, EventKind},
    telemetry::{
        events::{self, Events},
        metrics::{ActorMetrics, Metrics},
        queue::LogQueue,
    },
};

pub use self::{dialer::CollectorDialer, load::of_actors, outage::Outages};

/// How often it looks.
/// Limit: time between two sweeps of idle series: 60 s; past it: idle series are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The actor that keeps `metrics` tidy and reports on `log`.
pub fn child(metrics: &Arc<Metrics>, log: &LogQueue) -> ChildSpec {
    let (metrics, log) = (Arc::clone(metrics), log.clone());
    let make = move || (Telemetry { metrics: Arc::clone(&metrics), log: log.clone() }, ());
    ChildSpec::actor("telemetry", &Address::new("telemetry"), make)
        .kind_label("telemetry")
        .hung_after(HUNG_AFTER)
}

/// Counts what a tree's observer was told of an actor of `kind`.
pub fn count_event(metrics: &ActorMetrics, kind: &'static str, what: &EventKind) {
    match what {
        EventKind::Restarted { .. } => metrics.restarted(kind),
        EventKind::Crashed { .. } | EventKind::StartFailed { .. } | EventKind::GaveUp { .. } => {
            metrics.crashed(kind);
        }
        EventKind::Finished | EventKind::Quarantined { .. } | EventKind::Killed { .. } => {}
    }
}

/// Tells what a tree's observer was told in the events of the process.
pub fn tell_event(events: &Events, event: &supervisor::Event) {
    let kind = match &event.kind {
        EventKind::Quarantined { .. } => events::EventKind::Quarantine,
        _ => events::EventKind::Actor,
    };
    events.tell(kind, None, || format!("{} {}", event.path, event.kind));
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
        myself.send_interval(SWEEP_INTERVAL, || Msg::Tick);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, Msg::Tick: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.metrics.sweep(Instant::now().into_std());
        self.metrics.log_lines_lost(self.log.lost());
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.metrics.refusals.sweep(Instant::now().into_std());
        Ok(())
    }
}
