//! The DNS proxy of a pod (contract/dataplane.md section 7): an actor that owns the tasks which answer on the loopback
//! addresses of the pod. The sockets outlive it, so that a question waiting to be read survives its restart.

mod ask;
mod serve;
mod sockets;

use std::sync::{Arc, atomic::AtomicUsize};

use parking_lot::Mutex;
use ractor::ActorProcessingErr;

use self::sockets::Sockets;
use super::{
    pods::pod::Pod,
    settings::HUNG_AFTER,
    shard::{PlaceError, Placed},
};
use crate::{
    protocols::{config::DnsAddr, dns::resolvers::Resolvers},
    supervisor::{Actor, ActorRef, Address, ChildSpec, ConnSet, Described, TaskExit},
};

/// How names are answered.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Where in each pod.
    pub address: DnsAddr,
    /// The cluster's domain, in lower case.
    pub domain: String,
    /// Whose service goes before others that are as good.
    pub preferred_namespace: Option<String>,
    /// Whom to ask for what is none of the mesh's names.
    pub resolvers: Resolvers,
}

/// What of a pod's DNS proxy outlives its actor.
#[derive(Debug)]
pub struct Names {
    sockets: Mutex<Option<Sockets>>,
    /// Questions that wait, and connections.
    under_way: ConnSet<()>,
    waiting: AtomicUsize,
    connections: AtomicUsize,
}

struct Dns(Arc<Pod>);

// === impl Names ===

impl Names {
    /// Nothing yet. `shards`: how many there are.
    pub fn new(shards: usize) -> Self {
        Self {
            sockets: Mutex::default(),
            under_way: ConnSet::new(shards),
            waiting: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// No further question reaches the sockets; those that have are answered.
    pub fn retire(&self) {
        if let Some(sockets) = self.sockets.lock().take() {
            sockets.retire();
        }
    }

    /// Questions under way, and connections. Cut, they end without an answer.
    pub fn under_way(&self) -> &ConnSet<()> {
        &self.under_way
    }
}

/// Messages of the actor.
enum Msg {
    /// The task has ended. At most one for each that was placed.
    Ended(TaskExit),
}

/// The actor that answers for `pod`.
pub fn child(pod: &Arc<Pod>) -> ChildSpec {
    let pod = pod.clone();
    let make = move || (Dns(pod.clone()), ());
    ChildSpec::actor("dns", &Address::new("dns"), make).kind_label("dns").hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(_) => "task-ended",
        }
    }
}

impl Actor for Dns {
    type Msg = Msg;
    type State = Option<Placed>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Option<Placed>, ActorProcessingErr> {
        // Nothing may be bound again once the pod drains.
        if *self.0.draining.borrow() {
            return Ok(None);
        }
        let sockets = Sockets::of(&self.0)?;
        let index = self.shard().ok_or("no shard lives")?;
        Ok(Some(self.place(index, sockets, &myself)?))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Ended(exit): Msg,
        _: &mut Option<Placed>,
    ) -> Result<(), ActorProcessingErr> {
        match exit {
            _ if *self.0.draining.borrow() => Ok(()),
            // A shard that went takes its tasks along. The successor of this actor finds another one.
            TaskExit::Aborted => Err("the shard of the DNS proxy is gone".into()),
            TaskExit::Panicked { .. } => {
                self.0.node.metrics.actors.task_panicked("dns/serve");
                Err("a task of the DNS proxy panicked".into())
            }
            TaskExit::Done => {
                // The socket may be the reason: the next start binds others.
                self.0.dns.retire();
                Err("a task of the DNS proxy ended".into())
            }
        }
    }
}

impl Dns {
    /// The shard that answers for this pod: pods are dealt out, and what a dead one would do the next does.
    fn shard(&self) -> Option<usize> {
        let shards = &self.0.node.shards;
        let first = usize::try_from(self.0.serial).unwrap_or_default();
        let lives = |index: &usize| shards.alive(*index).is_some_and(|alive| *alive.borrow());
        (0..shards.count()).map(|n| (first + n) % shards.count()).find(lives)
    }

    fn place(&self, index: usize, sockets: Sockets, myself: &ActorRef<Msg>) -> Result<Placed, PlaceError> {
        let (pod, actor) = (self.0.clone(), myself.clone());
        let make = move |shard| serve::serve(shard, pod, sockets);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(exit)));
        self.0.node.shards.place("dns/serve", index, make, on_exit)
    }
}
