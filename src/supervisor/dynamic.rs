//! Children that come and go: pods, tunnels.
//!
//! They are independent of each other, each with its own intensity. One past it goes into quarantine (down, listed,
//! retried with a growing delay) and never up the tree, so what one peer can break is only its own child.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    actor_ref::ActorRef,
    address::{Address, AddressError},
    child::{ChildSpec, StartError},
    node::Node,
    shell::Msg,
};

/// Starts that may be outstanding. ractor's mailboxes have no bound, so it is here.
/// Limit: starts of dynamic children that are outstanding: 256; past it: callers wait, then get `Unavailable`.
pub(super) const MAX_PENDING_STARTS: usize = 256;

/// Stops that may be outstanding. Not those of starts: a start that hangs must not keep a stop waiting.
/// Limit: stops of dynamic children that are outstanding: 256; past it: callers wait, then get `TimedOut`.
pub(super) const MAX_PENDING_STOPS: usize = 256;

/// What a call to the dynamic supervisor takes beyond the work on the child: its own restart, say.
/// Limit: a call to a dynamic supervisor, beyond the child's own time: 5 s; past it: the caller gets
/// `Unavailable` or `TimedOut`.
const CALL_GRACE: Duration = Duration::from_secs(5);

/// The children of one dynamic supervisor. Clones are the same; it survives restarts of the supervisor, which then has
/// no children.
#[derive(Clone)]
pub struct DynamicChildren(Arc<Shared>);

struct Shared {
    address: Address<Msg>,
    node: Mutex<Option<Arc<Node>>>,
    admission: Semaphore,
    stops: Semaphore,
}

/// Why a dynamic child was not stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// The supervisor did not answer. It may stop the child later.
    #[error("{id} has not stopped within {after:?}")]
    TimedOut {
        /// The child.
        id: Arc<str>,
        /// How long the caller waited.
        after: Duration,
    },
}

// === impl DynamicChildren ===

impl DynamicChildren {
    /// A handle without a supervisor yet. The name is for errors.
    pub fn new(name: &str) -> Self {
        let (admission, stops) = (Semaphore::new(MAX_PENDING_STARTS), Semaphore::new(MAX_PENDING_STOPS));
        Self(Arc::new(Shared { address: Address::new(name), node: Mutex::new(None), admission, stops }))
    }

    /// Starts a child and waits until it is up. If it fails later it is restarted, whatever this caller does.
    ///
    /// # Errors
    /// The child's own start failure (it is forgotten then), `Duplicate` if a child of this id is there or still
    /// stopping, `Unavailable` if the supervisor is down, stopping or overloaded.
    pub async fn start(&self, child: impl Into<ChildSpec>) -> Result<(), StartError> {
        let spec = child.into();
        let (id, bound) = (spec.id().clone(), spec.profile.start_and_stop().saturating_add(CALL_GRACE));
        let admitted = tokio::time::timeout(bound, self.0.admission.acquire()).await;
        let Ok(Ok(_permit)) = admitted else { return Err(StartError::Unavailable { id }) };
        let started = self.0.address.call(bound, |reply| Msg::Add { spec, reply }).await;
        started.unwrap_or(Err(StartError::Unavailable { id }))
    }

    /// Stops a child for good and waits until it is gone: gracefully within its budget, then by kill. A child that is
    /// not there is fine.
    ///
    /// # Errors
    /// [`StopError::TimedOut`] if even the supervisor hangs.
    pub async fn stop(&self, id: &str) -> Result<(), StopError> {
        let node = self.0.node.lock().as_ref().and_then(|node| node.child(id));
        let bound =
            node.map_or(Duration::ZERO, |node| node.profile.start_and_stop()).saturating_add(CALL_GRACE);
        let id: Arc<str> = id.into();
        let admitted = tokio::time::timeout(bound, self.0.stops.acquire()).await;
        let Ok(Ok(_permit)) = admitted else { return Err(StopError::TimedOut { id, after: bound }) };
        match self.0.address.call(bound, |reply| Msg::Remove { id: id.clone(), reply }).await {
            // A supervisor that is down, or was lost, has taken its children with it.
            Ok(()) | Err(AddressError::Down { .. } | AddressError::Lost { .. }) => Ok(()),
            Err(AddressError::TimedOut { after, .. }) => Err(StopError::TimedOut { id, after }),
        }
    }

    /// The ids of all children, in the order they were added: up, failed or in quarantine. Does not wait.
    pub async fn ids(&self) -> Vec<Arc<str>> {
        let node = self.0.node.lock().clone();
        node.map_or_else(Vec::new, |node| {
            node.children().iter().map(|child| child.profile.id.clone()).collect()
        })
    }

    /// A supervisor is up and serves this handle from now on.
    pub(super) fn serve(&self, supervisor: ActorRef<Msg>, node: Arc<Node>) {
        *self.0.node.lock() = Some(node);
        self.0.address.publish(supervisor);
    }
}

impl fmt::Debug for DynamicChildren {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamicChildren").field(self.0.address.name()).finish()
    }
}
