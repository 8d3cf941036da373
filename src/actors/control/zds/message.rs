//! The messages of the hand-over actor.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    protocols::zds::{
        codec::Answer,
        session::{Ask, Then},
    },
    supervisor::{Described, TaskExit},
    sys::netns::NetNs,
};

/// A packet of the agent, and the sender of the answer.
pub(super) struct AgentRequest {
    pub(super) ask: Ask<NetNs>,
    pub(super) reply: oneshot::Sender<(Answer, Then)>,
}

/// Messages of the hand-over actor, all from the actor's own tasks. The link sends one packet at a time, and an
/// operation sends one result.
pub(super) enum Msg {
    Connected,
    Asked(AgentRequest),
    Disconnected,
    PodStarted(u64, Arc<str>, Result<(), String>),
    PodStopped(u64, Arc<str>),
    Tick,
    /// The link has ended, which must not happen while the actor runs.
    LinkEnded(TaskExit),
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Asked(_) => "asked",
            Self::Disconnected => "disconnected",
            Self::PodStarted(..) => "pod-started",
            Self::PodStopped(..) => "pod-stopped",
            Self::Tick => "tick",
            Self::LinkEnded(_) => "link-ended",
        }
    }
}
