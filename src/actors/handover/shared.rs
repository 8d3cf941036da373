//! The state of the hand-over of connections that outlives the actor.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::fault::Breaker;
use crate::{
    actors::{admin::readiness::Readiness, control::zds::ZdsStatus, pods::Pods},
    protocols::{config::HandoverFault, handover::message::Hello},
    telemetry::metrics::Metrics,
};

/// To whom connections go, and how.
pub(crate) struct Terms {
    /// The Unix socket at which the newest process listens.
    pub(crate) next: PathBuf,
    /// The Unix socket of a keeper, which takes connections while there is no next process.
    pub(crate) keeper: Option<PathBuf>,
    /// How long connections may go on after the order to stop.
    pub(crate) deadline: Duration,
    /// Where the hand-over is broken on purpose.
    pub(crate) fault: Option<HandoverFault>,
}

/// The state that outlives the actor.
pub(super) struct Shared {
    pub(super) terms: Terms,
    /// What this process says of itself.
    pub(super) hello: Hello,
    pub(super) pods: Pods,
    /// The state of the hand-over of pods: connections come once the pods are here.
    pub(super) zds: watch::Receiver<ZdsStatus>,
    pub(super) metrics: Arc<Metrics>,
    /// Where the state of the hand-over is told.
    pub(super) readiness: Readiness,
    /// Where the hand-over is broken on purpose.
    pub(super) breaker: Breaker,
    /// Whether this process stops, and gives its connections away.
    pub(super) leaves: watch::Sender<bool>,
}
