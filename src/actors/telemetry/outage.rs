//! Outages of actors as traces of their own: from the crash to the restart.

use std::collections::VecDeque;

use opentelemetry::KeyValue;
use parking_lot::Mutex;

use crate::{
    supervisor::{Event, EventKind},
    telemetry::trace::span::{self, SpanKind, Step},
};

/// Outages under way that are remembered; past it the oldest is exported as it is.
/// Limit: outages of actors under way that are traced: 256; past it: the oldest is exported as it is.
const MAX_OUTAGES: usize = 256;

/// Outages under way, by the path of the actor.
#[derive(Debug, Default)]
pub struct Outages(Mutex<VecDeque<(std::sync::Arc<str>, Step)>>);

// === impl Outages ===

impl Outages {
    /// Takes news of the tree.
    pub fn observe(&self, event: &Event) {
        if !span::is_on() {
            return;
        }
        let mut outages = self.0.lock();
        let known = outages.iter().position(|(path, _)| *path == event.path);
        let name = match &event.kind {
            EventKind::Crashed { .. } => "crashed",
            EventKind::StartFailed { .. } => "start failed",
            EventKind::Restarted { .. } => "restarted",
            EventKind::Quarantined { .. } => "quarantined",
            EventKind::GaveUp { .. } => "gave up",
            EventKind::Killed { .. } => "killed",
            EventKind::Finished => return,
        };
        let what = vec![KeyValue::new("warren.actor.event", event.kind.to_string())];
        if let EventKind::Restarted { .. } = event.kind {
            // One that was stopped with its supervisor, and did not crash itself, has had no outage of its own.
            if let Some((_, step)) = known.and_then(|at| outages.remove(at)) {
                step.describe(|span| _ = span.event(name, what));
            }
            return;
        }
        if known.is_none() {
            outages.push_back((event.path.clone(), begun(event)));
        }
        let step = known.map_or_else(|| outages.back(), |at| outages.get(at));
        if let Some((_, step)) = step {
            step.describe(|span| _ = span.event(name, what).failed(name, &event.kind));
        }
        if outages.len() > MAX_OUTAGES {
            outages.pop_front();
        }
    }
}

fn begun(event: &Event) -> Step {
    let step = Step::inside(None, "actor outage", SpanKind::Internal);
    step.describe(|span| {
        span.set("warren.actor.path", event.path.to_string()).set("warren.actor.kind", event.kind_label);
    });
    step
}
