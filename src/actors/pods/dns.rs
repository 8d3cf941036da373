//! The DNS proxy of a pod (docs/spec/dataplane.md 7): an actor that owns the tasks which answer on the loopback
//! addresses of the pod. The sockets outlive it, so that a question waiting to be read survives its restart.

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
    /// The task has ended. At most one for each that was placed.
    Ended(TaskExit),
}

/// The actor that answers the questions of a pod.
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
        // Nothing may be bound again once the pod drains.
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
            // A shard that went takes its tasks along. The successor of this actor finds another one.
            TaskExit::Aborted => Err("the shard of the DNS proxy is gone".into()),
            TaskExit::Panicked { .. } => {
                self.ctx.metrics.actors.task_panicked("dns/serve");
                Err("a task of the DNS proxy panicked".into())
            }
            TaskExit::Done => {
                // The socket may be the reason: the next start binds others.
                self.ctx.state.retire();
                Err("a task of the DNS proxy ended".into())
            }
        }
    }
}

impl Dns {
    /// The shard that answers for this pod: pods are dealt out, and what a dead one would do the next does.
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
