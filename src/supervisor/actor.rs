//! Actors that run under a supervisor.

use ractor::{ActorProcessingErr, Message, State, SupervisionEvent};

use super::actor_ref::ActorRef;

/// A message that can be named without what it carries: for the flight recorder, logs and `/actors`.
pub trait Described {
    /// Its variant, in lower case with dashes. Never a payload.
    fn kind(&self) -> &'static str;
}

/// An actor that runs under a supervisor: ractor's trait, with an [`ActorRef`] of ours.
pub trait Actor: Sized + Send + Sync + 'static {
    /// What it is sent.
    type Msg: Message + Described;
    /// What it owns while it runs.
    type State: State;
    /// What a start needs.
    type Arguments: State;

    /// Makes the State. Takes local things only (bind, open) and never waits for a remote.
    fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> impl Future<Output = Result<Self::State, ActorProcessingErr>> + Send;

    /// Runs once after the start, before the first message.
    fn post_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        std::future::ready(Ok(()))
    }

    /// Handles a message. An error is a crash.
    fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        _message: Self::Msg,
        _state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        std::future::ready(Ok(()))
    }

    /// Handles news of an actor that is linked to this one.
    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        _state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        // As ractor does: an actor that does not expect the end of a linked one ends with it.
        if let SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) = event {
            myself.stop(None);
        }
        std::future::ready(Ok(()))
    }

    /// Runs after a graceful stop; not after a crash or a kill.
    fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        std::future::ready(Ok(()))
    }
}
