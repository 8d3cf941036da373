//! What the actor of the connection with istio-cni hears.

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

/// A packet of the agent and where its answer goes.
pub(super) struct AgentRequest {
    pub(super) ask: Ask<NetNs>,
    pub(super) reply: oneshot::Sender<(Answer, Then)>,
}

/// What the actor hears, all of it from its own tasks: the link sends one packet at a time, an operation one result.
pub(super) enum Msg {
    Connected,
    Asked(AgentRequest),
    Disconnected,
    PodStarted(u64, Arc<str>, Result<(), String>),
    PodStopped(u64, Arc<str>),
    Tick,
    /// The link is never to end by itself.
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
