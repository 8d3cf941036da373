//! The policy actor re-checks live inbound connections when policies or workloads change (docs/spec/dataplane.md
//! 4.4). One actor serves all pods.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::time::sleep;

use super::{node::Node, table::PodTable};
use crate::{
    dataplane::{
        authorize::verdict,
        inbound_context::InboundContext,
        pod::conns::{ConnInfo, cut},
    },
    protocols::labels::Reporter,
    runtime::conns::Conn,
    supervisor::{
        Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, report_task_panic, watch_panics,
    },
};

/// The time in which the actor must check all connections of all pods. The actor checks the connections in slices.
/// Limit: one check of all connections of all pods in the policy actor: 10 s; past it: the watchdog has the actor
/// killed.
const POLICY_HUNG_AFTER: Duration = Duration::from_secs(10);
/// The number of connections that the actor checks before other actors get a turn.
/// Limit: live connections that a policy change checks in one turn: 256; past it: other actors go first.
const CONNS_PER_TURN: usize = 256;

struct Policy {
    pods: PodTable,
    node: Arc<Node>,
}

/// Messages of the actor.
enum Msg {
    /// A policy or workload changed: check every connection. The actor's own watch sends the message and waits for
    /// the answer, so changes in between coalesce.
    ///
    /// `true`: a connection whose policy is unknown is cut, unless the connection itself waits for the policy. The
    /// answer is the number of connections whose policy is still unknown.
    Check(bool, RpcReplyPort<usize>),
}

/// The actor that re-checks the connections of `pods`.
pub(crate) fn child(pods: &PodTable, node: &Arc<Node>) -> ChildSpec {
    let (pods, node) = (pods.clone(), node.clone());
    let make = move || (Policy { pods: pods.clone(), node: node.clone() }, ());
    ChildSpec::actor("policy", &Address::new("policy"), make)
        .kind_label("policy")
        .hung_after(POLICY_HUNG_AFTER)
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
        Ok(OwnedTask::spawn("policy/watch", watch(self.node.clone(), actor), lost))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        let Msg::Check(final_word, reply) = message;
        let (mut unknown, mut panicked) = (0, None);
        for pod in self.pods.all() {
            // A panic in the check of one pod must not prevent the checks of other pods.
            match watch_panics(check(&pod.inbound, final_word)).await {
                Ok(of_this) => unknown += of_this,
                Err(message) => {
                    report_task_panic(
                        &format!("root/dataplane/pods/{}/conns", pod.id.uid),
                        "policy",
                        &message,
                    );
                    panicked = Some(format!("the check of pod {} panicked: {message}", pod.id.uid));
                }
            }
        }
        // Only a watch that was replaced meanwhile does not wait for the answer.
        let _ = reply.send(unknown);
        panicked.map_or(Ok(()), |why| Err(why.into()))
    }
}

/// Asks for a check after each change, and for one at the start, because changes were missed while the actor was
/// down.
async fn watch(node: Arc<Node>, actor: ActorRef<Msg>) {
    let mut changes = node.mesh.changes();
    let mut final_word = false;
    loop {
        if !final_word {
            changes.borrow_and_update();
        }
        let Ok(unknown) = actor.call(|reply| Msg::Check(final_word, reply)).await else { return };
        let changed = if unknown == 0 {
            changes.changed().await
        } else {
            // An unknown policy that a workload names may come with the next push. The wait for the policy is
            // bounded.
            let within = node.config.timeouts.workload;
            tokio::select! {
                changed = changes.changed() => changed,
                () = sleep(within) => {
                    final_word = true;
                    continue;
                }
            }
        };
        final_word = false;
        if changed.is_err() {
            // The tables do not change any more, so no further check is needed.
            std::future::pending::<()>().await;
        }
    }
}

async fn check(ctx: &InboundContext, final_word: bool) -> usize {
    let mut conns: Vec<Conn<ConnInfo>> = Vec::new();
    ctx.conns.live.for_each(|conn| {
        if conn.info().reporter == Reporter::Destination {
            conns.push(conn.clone());
        }
    });
    // If the workload is gone from the tables, the connections are checked against the last known workload.
    let Some(workload) = ctx.pod.now_or_last() else { return 0 };
    let (mut unknown, log) = (0, ctx.config.policy_log);
    for (index, conn) in conns.iter().enumerate() {
        match verdict(&ctx.pod, &workload, conn.info(), log) {
            Some(Ok(())) => {}
            Some(Err(_)) => conn.cut(cut::POLICY),
            // A connection that still waits has its own time limit and reports the policy that it waited for.
            None if final_word && !conn.info().waits.load(Ordering::Relaxed) => conn.cut(cut::POLICY),
            None => unknown += 1,
        }
        if index % CONNS_PER_TURN == CONNS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    unknown
}
