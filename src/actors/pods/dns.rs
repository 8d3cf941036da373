//! The actor of a pod's DNS proxy (docs/spec/dataplane.md 7). The actor owns the tasks that answer on the loopback
//! addresses of the pod. The sockets outlive the actor, so a query that waits to be read survives a restart.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use crate::{
    actors::HUNG_AFTER,
    dataplane::dns::{DnsContext, serve, sockets::Sockets},
    runtime::shard::{PlaceError, Placed, Shards},
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, TaskExit},
};

struct Dns {
    ctx: Arc<DnsContext>,
    shards: Shards,
}

/// Messages of the actor.
enum Msg {
    /// The task has ended. Each placed task sends at most one.
    Ended(TaskExit),
}

/// The actor that answers the DNS queries of a pod.
pub(crate) fn child(ctx: &Arc<DnsContext>, shards: &Shards) -> ChildSpec {
    let (ctx, shards) = (ctx.clone(), shards.clone());
    let make = move || (Dns { ctx: ctx.clone(), shards: shards.clone() }, ());
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
        // No socket may be bound again once the pod drains.
        if self.ctx.conns.is_draining() {
            return Ok(None);
        }
        let sockets = self.ctx.sockets()?;
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
            _ if self.ctx.conns.is_draining() => Ok(()),
            // The shard's thread has ended with its tasks. The next start of this actor chooses another shard.
            TaskExit::Aborted => Err("the shard of the DNS proxy is gone".into()),
            TaskExit::Panicked { .. } => {
                self.ctx.metrics.actors.task_panicked("dns/serve");
                Err("a task of the DNS proxy panicked".into())
            }
            TaskExit::Done => {
                // The sockets may be the reason for the failure: the next start binds new sockets.
                self.ctx.state.retire();
                Err("a task of the DNS proxy ended".into())
            }
        }
    }
}

impl Dns {
    /// The shard that answers for this pod. Pods are spread over the shards; the next living shard replaces a dead
    /// shard.
    fn shard(&self) -> Option<usize> {
        let shards = &self.shards;
        let first = usize::try_from(self.ctx.pod.id.serial).unwrap_or_default();
        let lives = |index: &usize| shards.alive(*index).is_some_and(|alive| *alive.borrow());
        (0..shards.count()).map(|n| (first + n) % shards.count()).find(lives)
    }

    fn place(&self, index: usize, sockets: Sockets, myself: &ActorRef<Msg>) -> Result<Placed, PlaceError> {
        let (ctx, actor) = (self.ctx.clone(), myself.clone());
        let make = move |shard| serve::serve(shard, ctx, sockets);
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(exit)));
        self.shards.place("dns/serve", index, make, on_exit)
    }
}
