//! The handle of the hand-over.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::{
    actor::ZdsActor,
    message::Msg,
    pods::Pods,
    status::{Shared, ZdsStatus},
};
use crate::{
    actors::HUNG_AFTER,
    supervisor::{Address, ChildSpec},
};

/// The hand-over of pods. Cheap to clone; every clone sees the same.
#[derive(Clone)]
pub struct Zds {
    shared: Arc<Shared>,
    address: Address<Msg>,
}

// === impl Zds ===

impl Zds {
    /// The hand-over at the agent's socket `path` (`INPOD_UDS`). Nothing is dialled before `gate` is true: the first
    /// answers of the control plane have been taken in.
    pub fn new(path: PathBuf, gate: watch::Receiver<bool>) -> Self {
        let shared = Shared { path, gate, status: watch::Sender::new(ZdsStatus::default()) };
        Self { shared: Arc::new(shared), address: Address::new("zds") }
    }

    /// The actor, to be run under a supervisor, handing over to `pods`. The status survives its restarts.
    pub fn child<P: Pods>(&self, pods: P) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("zds", &self.address, move || (ZdsActor::new(pods.clone()), shared.clone()))
            .kind_label("zds")
            .hung_after(HUNG_AFTER)
    }

    /// The status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<ZdsStatus> {
        self.shared.status.subscribe()
    }
}

#[cfg(test)]
mod tests;
