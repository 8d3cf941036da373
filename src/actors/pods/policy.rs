//! The policy actor re-checks live inbound connections when policies or workloads that concern them change
//! (docs/spec/dataplane.md 4.4). One actor serves all pods.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::time::{Instant, sleep_until};

use super::{node::Node, pod::Pod, table::PodTable};
use crate::{
    dataplane::{
        authorize::{Asker, Decision, decision},
        inbound_context::InboundContext,
        missing_policies::Standing,
        pod::conns::{ConnInfo, cut},
    },
    protocols::{
        labels::Reporter,
        mesh::{Mesh, Workload, policy::Policy as Authorization},
        rbac::{self, Destination},
    },
    runtime::conns::Conn,
    supervisor::{
        Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, report_task_panic, watch_panics,
    },
};

/// The time in which the actor must check all connections of all pods. The actor checks the connections in slices.
/// Limit: one check of all connections of all pods in the policy actor: 10 s; past it: the watchdog has the actor
/// killed.
const POLICY_HUNG_AFTER: std::time::Duration = std::time::Duration::from_secs(10);
/// The number of connections that the actor checks before other actors get a turn.
/// Limit: live connections that a policy change checks in one turn: 256; past it: other actors go first.
const CONNS_PER_TURN: usize = 256;

struct Policy {
    pods: PodTable,
    node: Arc<Node>,
}

/// Messages of the actor.
enum Msg {
    /// A policy or workload changed, or a policy was waited for long enough: check the connections that are concerned.
    /// The actor's own watch sends the message and waits for the answer, so changes in between coalesce.
    ///
    /// The answer is the next moment at which a policy will have been waited for long enough.
    Check(RpcReplyPort<Option<Instant>>),
}

/// The actor's state.
struct State {
    /// The last check of each pod, by the pod's serial number.
    checked: HashMap<u64, Checked>,
    _watch: OwnedTask,
}

/// A check of a pod's connections.
struct Checked {
    basis: Basis,
    /// The moment at which a policy that was waited for will have been waited for long enough.
    due: Option<Instant>,
}

/// What decides about a pod's connections, beside what is known of the connections.
#[derive(Default)]
struct Basis {
    namespace: Box<str>,
    policies: Vec<Arc<Authorization>>,
    missing: Vec<Box<str>>,
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
            Self::Check(_) => "check",
        }
    }
}

impl Actor for Policy {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let actor = myself.clone();
        let lost = move |_| myself.stop(Some("the watch ended".into()));
        let watch = OwnedTask::spawn("policy/watch", watch(self.node.clone(), actor), lost);
        Ok(State { checked: HashMap::new(), _watch: watch })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Check(reply): Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (pods, mut panicked) = (self.pods.all(), None);
        let mut checked = HashMap::with_capacity(pods.len());
        for pod in &pods {
            // If the workload is gone from the tables, the connections are checked against the last known workload.
            let Some(workload) = pod.inbound.pod.now_or_last() else { continue };
            let basis = Basis::of(&workload, self.node.mesh.tables());
            let serial = pod.id.serial;
            if let Some(last) = state.checked.remove(&serial).filter(|last| last.holds(&basis)) {
                checked.insert(serial, last);
                continue;
            }
            // A panic in the check of one pod must not prevent the checks of other pods.
            match watch_panics(check(&pod.inbound, &workload)).await {
                Ok(due) => _ = checked.insert(serial, Checked { basis, due }),
                Err(message) => panicked = Some(lost(pod, &message)),
            }
        }
        state.checked = checked;
        let due = state.checked.values().filter_map(|pod| pod.due).min();
        let named = |key: &str| state.checked.values().any(|pod| pod.basis.misses(key));
        self.node.mesh.missing_policies().retain(self.node.mesh.tables(), named);
        // Only a watch that was replaced meanwhile does not wait for the answer.
        let _ = reply.send(due);
        panicked.map_or(Ok(()), |why| Err(why.into()))
    }
}

/// Reports that the check of `pod` panicked. Returns the error of the actor.
fn lost(pod: &Pod, message: &str) -> String {
    report_task_panic(&format!("root/dataplane/pods/{}/conns", pod.id.uid), "policy", message);
    format!("the check of pod {} panicked: {message}", pod.id.uid)
}

/// Asks for a check after each change, and for one at the start, because changes were missed while the actor was
/// down.
async fn watch(node: Arc<Node>, actor: ActorRef<Msg>) {
    let mut changes = node.mesh.changes();
    loop {
        changes.borrow_and_update();
        let Ok(due) = actor.call(Msg::Check).await else { return };
        let long_enough = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                // The tables do not change any more, so no further check is needed.
                std::future::pending::<()>().await;
            },
            () = long_enough => {}
        }
    }
}

/// Checks the pod's live inbound connections. Returns the moment at which a policy that is waited for will have been
/// waited for long enough.
async fn check(ctx: &InboundContext, workload: &Workload) -> Option<Instant> {
    let mut conns: Vec<Conn<ConnInfo>> = Vec::new();
    ctx.conns.live.for_each(|conn| {
        if conn.info().reporter == Reporter::Destination {
            conns.push(conn.clone());
        }
    });
    let (mut due, asker) = (None, Asker::Recheck { info: ctx.config.policy_log });
    for (index, conn) in conns.iter().enumerate() {
        ctx.metrics.policy_rechecked();
        match decision(&ctx.pod, workload, conn.info(), asker) {
            Decision::Made(Ok(())) => {}
            Decision::Made(Err(_)) => conn.cut(cut::POLICY),
            // A connection that still waits has its own time limit and reports the policy that it waited for.
            Decision::Open { until } if until <= Instant::now() => {
                if !conn.info().waits.load(Ordering::Relaxed) {
                    conn.cut(cut::POLICY);
                }
            }
            Decision::Open { until } => due = Some(due.map_or(until, |due: Instant| due.min(until))),
        }
        if index % CONNS_PER_TURN == CONNS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    // A policy counts as missed from the moment at which the workload names it, whoever connects.
    for key in missing(workload, ctx.pod.mesh.tables()) {
        if let Standing::MayCome { until } =
            ctx.pod.mesh.missing_policies().standing(ctx.pod.mesh.tables(), key)
            && until > Instant::now()
        {
            due = Some(due.map_or(until, |due| due.min(until)));
        }
    }
    due
}

/// The keys of policies that `workload` names and the tables do not hold.
fn missing<'a>(workload: &'a Workload, mesh: &Mesh) -> impl Iterator<Item = &'a str> {
    let policies = mesh.policies();
    workload.policies().iter().map(AsRef::as_ref).filter(move |key| policies.get(key).is_none())
}

// === impl Checked ===

impl Checked {
    /// Whether the check still holds: `now` decides as the check's basis did, and no policy is due.
    fn holds(&self, now: &Basis) -> bool {
        self.due.is_none_or(|due| due > Instant::now()) && self.basis.is(now)
    }
}

// === impl Basis ===

impl Basis {
    /// What decides about connections to `workload`.
    fn of(workload: &Workload, mesh: &Mesh) -> Self {
        let (namespace, table) = (workload.namespace(), mesh.policies());
        let destination = Destination { namespace, policies: workload.policies() };
        Self {
            namespace: namespace.into(),
            policies: rbac::applying(&table, &destination).cloned().collect(),
            missing: missing(workload, mesh).map(Box::from).collect(),
        }
    }

    /// Whether both decide the same. A policy that was sent again unchanged is the same.
    fn is(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        self.namespace == other.namespace
            && self.missing == other.missing
            && self.policies.len() == other.policies.len()
            && self.policies.iter().zip(&other.policies).all(same)
    }

    /// Whether a workload names the policy `key`, which the tables do not hold.
    fn misses(&self, key: &str) -> bool {
        self.missing.iter().any(|missing| **missing == *key)
    }
}

#[cfg(test)]
mod tests;
