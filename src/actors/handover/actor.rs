//! The actor, which owns the two tasks: one that takes connections from the former process, and one that gives them to
//! the next process.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use super::{give, shared::Shared, take};
use crate::supervisor::{Actor, ActorRef, Described, OwnedTask, TaskExit};

pub(super) struct HandoverActor;

/// Messages of the actor.
pub(crate) enum Msg {
    /// A task ended. Each task sends at most one.
    Ended(&'static str, TaskExit),
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(..) => "task-ended",
        }
    }
}

impl Actor for HandoverActor {
    type Msg = Msg;
    type State = [OwnedTask; 2];
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        shared: Arc<Shared>,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (took, gave) = (myself.clone(), myself);
        // The casts fail only if the actor has ended already.
        Ok([
            OwnedTask::spawn("handover/take", take::run(shared.clone()), move |exit| {
                let _ = took.cast(Msg::Ended("take", exit));
            }),
            OwnedTask::spawn("handover/give", give::run(shared), move |exit| {
                let _ = gave.cast(Msg::Ended("give", exit));
            }),
        ])
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Ended(task, exit): Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Err(format!("the task {task} ended: {exit:?}").into())
    }
}
