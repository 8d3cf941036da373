//! The handle of the hand-over of pods.

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

/// The hand-over of pods. A clone is cheap, and clones share the state.
#[derive(Clone)]
pub struct Zds {
    shared: Arc<Shared>,
    address: Address<Msg>,
}

// === impl Zds ===

impl Zds {
    /// Makes the hand-over at the agent's socket `path` (`INPOD_UDS`). The actor dials only once `gate` is true,
    /// which means that the first state of the mesh is complete.
    pub fn new(path: PathBuf, gate: watch::Receiver<bool>) -> Self {
        let shared = Shared {
            path,
            gate,
            status: watch::Sender::new(ZdsStatus::default()),
            left: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared), address: Address::new("zds") }
    }

    /// The actor, as a child of a supervisor. The actor hands over to `pods`. The status survives restarts of the
    /// actor.
    pub fn child<P: Pods>(&self, pods: P) -> ChildSpec {
        let shared = self.shared.clone();
        ChildSpec::actor("zds", &self.address, move || (ZdsActor::new(pods.clone()), shared.clone()))
            .kind_label("zds")
            .hung_after(HUNG_AFTER)
    }

    /// Hangs up for good, so that the agent hands new pods over to another proxy. The pods are served on.
    pub fn leave(&self) {
        self.shared.left.send_replace(true);
    }

    /// A receiver of the status, which sees each change.
    pub fn status(&self) -> watch::Receiver<ZdsStatus> {
        self.shared.status.subscribe()
    }
}

#[cfg(test)]
mod tests;
