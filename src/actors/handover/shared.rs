//! The state of the hand-over of connections that outlives the actor.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{
    actors::{control::zds::ZdsStatus, pods::Pods},
    protocols::handover::message::Hello,
    telemetry::metrics::Metrics,
};

/// The state that outlives the actor.
pub(super) struct Shared {
    /// The Unix socket at which the newest process listens.
    pub(super) path: PathBuf,
    /// What this process says of itself.
    pub(super) hello: Hello,
    pub(super) pods: Pods,
    /// The state of the hand-over of pods: connections come once the pods are here.
    pub(super) zds: watch::Receiver<ZdsStatus>,
    pub(super) metrics: Arc<Metrics>,
    /// Whether this process stops, and gives its connections away.
    pub(super) leaves: watch::Sender<bool>,
}
