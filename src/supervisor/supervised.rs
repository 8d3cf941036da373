//! An actor under supervision: its handlers are recorded and timed, and it acts out the faults it is sent.

use std::{sync::Arc, time::Duration};

use ractor::{
    Actor as _, ActorCell, ActorProcessingErr, SpawnErr, SupervisionEvent, concurrency::JoinHandle,
};
use tracing::{Instrument, Span};

use super::{
    actor::{Actor, Described},
    actor_ref::{ActorRef, Envelope},
    diagnostics::{Handling, MailboxGauge, Watched},
    faults::Slowness,
    node::{Node, Subject},
};

/// An actor of ours as one of ractor's.
pub(super) struct Supervised<A> {
    actor: A,
    node: Arc<Node>,
    gauge: Arc<MailboxGauge>,
}

/// What a supervised actor owns while it runs.
pub(super) struct State<S> {
    inner: S,
    slowness: Slowness,
}

/// Starts `actor` at `node`, under `supervisor`; a root has none.
pub(super) async fn start<A: Actor>(
    actor: A,
    arguments: A::Arguments,
    node: Arc<Node>,
    supervisor: Option<ActorCell>,
) -> Result<(ActorRef<A::Msg>, JoinHandle<()>), SpawnErr> {
    let gauge = node.record.begin();
    let supervised = Supervised { actor, node, gauge: gauge.clone() };
    let (actor, ended) = match supervisor {
        // No name: ractor's registry is one for the process, and two trees must not collide.
        Some(supervisor) => Supervised::spawn_linked(None, supervised, arguments, supervisor).await?,
        None => Supervised::spawn(None, supervised, arguments).await?,
    };
    Ok((ActorRef::new(actor, gauge), ended))
}

/// Runs an actor without a supervisor.
#[cfg(test)]
pub(crate) async fn run_alone<A: Actor>(
    actor: A,
    arguments: A::Arguments,
) -> Result<ActorRef<A::Msg>, SpawnErr> {
    let profile = super::node::Profile {
        id: "alone".into(),
        kind: super::diagnostics::NodeKind::Worker,
        label: "alone",
        shown_as: None,
        start_timeout: Duration::MAX,
        stop_within: Duration::MAX,
        hung_after: None,
    };
    let node = Node::root(&profile, |_| None);
    start(actor, arguments, node, None).await.map(|(actor, _)| actor)
}

// === impl Supervised ===

impl<A: Actor> Supervised<A> {
    fn own_ref(&self, actor: ractor::ActorRef<Envelope<A::Msg>>) -> ActorRef<A::Msg> {
        ActorRef::new(actor, self.gauge.clone())
    }

    /// Records a handler of something that did not come as a message.
    fn record(&self, what: &'static str) -> Handling<'_> {
        self.node.record.handling(what, Duration::ZERO, Span::none())
    }

    /// Has the watchdog time what begins now, if there is a limit.
    fn watch(
        &self,
        myself: &ractor::ActorRef<Envelope<A::Msg>>,
        limit: Option<Duration>,
    ) -> Option<Watched<'_, Subject>> {
        let subject = || Subject { node: self.node.clone(), actor: myself.get_id() };
        limit.map(|limit| self.node.shared.watchdog.enter(subject(), limit))
    }
}

impl<A: Actor> ractor::Actor for Supervised<A> {
    type Msg = Envelope<A::Msg>;
    type State = State<A::State>;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        arguments: A::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // No watchdog: the time of the whole start is bounded by whoever starts the actor.
        let handling = self.record("pre-start");
        let started = self.actor.pre_start(self.own_ref(myself), arguments).await;
        handling.discard();
        Ok(State { inner: started?, slowness: Slowness::default() })
    }

    async fn post_start(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let handling = self.record("post-start");
        let _watched = self.watch(&myself, self.node.profile.hung_after);
        let done = self.actor.post_start(self.own_ref(myself), &mut state.inner).await;
        handling.done();
        done
    }

    async fn post_stop(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let handling = self.record("post-stop");
        // The supervisor bounds a stop that it asked for; this bounds the stop of an actor that ended by itself.
        let _watched = self.watch(&myself, Some(self.node.profile.stop_within));
        let done = self.actor.post_stop(self.own_ref(myself), &mut state.inner).await;
        handling.done();
        done
    }

    async fn handle(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        envelope: Self::Msg,
        State { inner, slowness }: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match envelope {
            Envelope::Message { message, span } => {
                let waited = self.gauge.leave().map_or(Duration::ZERO, |sent| sent.elapsed());
                let handling = self.node.record.handling(message.kind(), waited, span.clone());
                let _watched = self.watch(&myself, self.node.profile.hung_after);
                slowness.delay().await;
                let handle = self.actor.handle(self.own_ref(myself), message, inner);
                // The handler runs inside the span that the message was sent from.
                let done = handle.instrument(span).await;
                handling.done();
                done
            }
            Envelope::Fault(fault) => {
                let handling = self.record("injected-fault");
                let _watched = self.watch(&myself, self.node.profile.hung_after);
                fault.act_out(&self.node.path, slowness).await;
                handling.done();
                Ok(())
            }
            Envelope::Probe(answer) => {
                // Whoever asked may have given up.
                let _ = answer.send(());
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ractor::ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let handling = match &event {
            SupervisionEvent::ActorFailed(..) => Some(self.record("child-failed")),
            SupervisionEvent::ActorTerminated(..) => Some(self.record("child-ended")),
            _ => None,
        };
        let _watched = self.watch(&myself, self.node.profile.hung_after);
        let done = self.actor.handle_supervisor_evt(self.own_ref(myself), event, &mut state.inner).await;
        if let Some(handling) = handling {
            handling.done();
        }
        done
    }
}
