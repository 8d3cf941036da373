//! Re-checks a pod's live inbound connections when policies or workloads change (contract/dataplane.md section 4.4).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::time::sleep;

use super::pod::{ConnInfo, Pod};
use crate::{
    actors::{node::cut, serve::verdict},
    protocols::labels::Reporter,
    supervisor::{Actor, ActorRef, Address, ChildSpec, Conn, Described, OwnedTask},
};

/// It has this long for all connections, which it checks in slices.
const HUNG_AFTER: Duration = Duration::from_secs(10);
/// Connections checked until other actors get their turn.
const SLICE: usize = 256;

struct Policy(Arc<Pod>);

/// Messages of the actor.
pub enum Msg {
    /// Something changed: check every connection. Sent by the actor's own watch, which waits for the answer, so that
    /// changes meanwhile coalesce. `true`: what is still unknown is denied, but for who waits itself. Answered with how
    /// many are still unknown.
    Check(bool, RpcReplyPort<usize>),
}

/// The actor that re-checks the connections of `pod`.
pub fn child(pod: &Arc<Pod>) -> ChildSpec {
    let pod = pod.clone();
    let make = move || (Policy(pod.clone()), ());
    ChildSpec::actor("policy", &Address::new("policy"), make).kind_label("policy").hung_after(HUNG_AFTER)
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Check(false, _) => "check",
            Self::Check(true, _) => "check-final",
        }
    }
}

impl Actor for Policy {
    type Msg = Msg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let actor = myself.clone();
        let lost = move |_| myself.stop(Some("the watch ended".into()));
        Ok(OwnedTask::spawn("policy/watch", watch(self.0.clone(), actor), lost))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        let Msg::Check(final_word, reply) = message;
        let unknown = check(&self.0, final_word).await;
        // Only a watch that was replaced meanwhile does not wait for the answer.
        let _ = reply.send(unknown);
        Ok(())
    }
}

/// Has everything checked once at the start, for changes missed while the actor was down, and after each change.
async fn watch(pod: Arc<Pod>, actor: ActorRef<Msg>) {
    let mut changes = pod.node.mesh_changed.clone();
    let mut final_word = false;
    loop {
        if !final_word {
            changes.borrow_and_update();
        }
        let Ok(unknown) = actor.call(|reply| Msg::Check(final_word, reply)).await else { return };
        let changed = if unknown == 0 {
            changes.changed().await
        } else {
            // A policy that is named but not known may come with the next push; it is not waited for without end.
            let patience = pod.node.settings.timeouts.workload;
            tokio::select! {
                changed = changes.changed() => changed,
                () = sleep(patience) => {
                    final_word = true;
                    continue;
                }
            }
        };
        final_word = false;
        if changed.is_err() {
            // The tables are final: nothing will ever have to be checked again.
            std::future::pending::<()>().await;
        }
    }
}

async fn check(pod: &Pod, final_word: bool) -> usize {
    let mut conns: Vec<Conn<ConnInfo>> = Vec::new();
    pod.conns.for_each(|conn| {
        if conn.info().reporter == Reporter::Destination {
            conns.push(conn.clone());
        }
    });
    // A workload that vanished says nothing about the connections it has: they are held against what was last known.
    let Some(workload) = pod.workload_last() else { return 0 };
    let mut unknown = 0;
    for (index, conn) in conns.iter().enumerate() {
        match verdict(pod, &workload, conn.info()) {
            Some(Ok(())) => {}
            Some(Err(_)) => conn.cut(cut::POLICY),
            // Who is not let in yet has a limit of its own, and can say for which policy it waited.
            None if final_word && !conn.info().waits.load(Ordering::Relaxed) => conn.cut(cut::POLICY),
            None => unknown += 1,
        }
        if index % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
    }
    unknown
}
