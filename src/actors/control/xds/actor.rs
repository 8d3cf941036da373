//! The actor of the discovery stream runs one stream at a time, each in its own task, with a pause between two
//! streams.

use std::{marker::PhantomData, time::Duration};

use ractor::ActorProcessingErr;

use super::{client::Xds, stream};
use crate::{
    actors::HUNG_AFTER,
    protocols::xds::{
        Sink,
        backoff::{Backoff, End},
    },
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, TaskExit},
};

/// The actor that owns the stream's task.
pub(super) struct XdsActor<S>(PhantomData<fn() -> S>);

/// The arguments of a start.
pub(super) struct XdsArgs<S> {
    pub(super) xds: Xds,
    pub(super) sink: S,
}

/// Messages from the stream's task. At most one message is outstanding.
#[derive(Debug)]
pub(super) enum Msg {
    /// The stream ended.
    Ended(End),
    /// The stream's task panicked with this message.
    Panicked(String),
}

/// The state of the running client.
pub(super) struct Running<S> {
    args: XdsArgs<S>,
    backoff: Backoff,
    /// The stream's task, which ends when the state is dropped.
    _stream: OwnedTask,
}

/// The error of the actor after the stream's task panicked.
#[derive(Debug, thiserror::Error)]
#[error("the discovery stream's task panicked: {0}")]
struct StreamPanicked(String);

// === impl Xds ===

impl Xds {
    /// The actor, as a child of a supervisor. The actor applies resources to `sink`. At most one actor may run at a
    /// time.
    pub(crate) fn child<S: Sink>(&self, sink: S) -> ChildSpec {
        let xds = self.clone();
        let make = move || (XdsActor::new(), XdsArgs { xds: xds.clone(), sink: sink.clone() });
        ChildSpec::actor("xds", &Address::new("xds"), make).kind_label("xds").hung_after(HUNG_AFTER)
    }
}

// === impl XdsActor ===

impl<S> XdsActor<S> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Ended(_) => "ended",
            Self::Panicked(_) => "panicked",
        }
    }
}

impl<S: Sink> Actor for XdsActor<S> {
    type Msg = Msg;
    type State = Running<S>;
    type Arguments = XdsArgs<S>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        args: XdsArgs<S>,
    ) -> Result<Running<S>, ActorProcessingErr> {
        let stream = start(&args, myself, Duration::ZERO);
        Ok(Running { args, backoff: Backoff::new(), _stream: stream })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        running: &mut Running<S>,
    ) -> Result<(), ActorProcessingErr> {
        let end = match message {
            Msg::Ended(end) => end,
            Msg::Panicked(words) => return Err(Box::new(StreamPanicked(words))),
        };
        let (reason, delay) = running.backoff.after(&end);
        let xds = &running.args.xds;
        xds.0.metrics.terminated(reason);
        let error = end.to_string();
        let delay_ms = delay.as_millis() as u64;
        if end.is_routine() {
            tracing::info!(target: "xds", %reason, delay_ms, %error, "disconnected");
        } else {
            tracing::warn!(target: "xds", control_plane = %xds.0.settings.target, %reason, delay_ms, %error, "not connected");
        }
        xds.update(|status| status.last_error = Some(error.into()));
        running._stream = start(&running.args, myself, delay);
        Ok(())
    }
}

fn start<S: Sink>(args: &XdsArgs<S>, myself: ActorRef<Msg>, delay: Duration) -> OwnedTask {
    let (xds, sink) = (args.xds.clone(), args.sink.clone());
    let reporter = myself.clone();
    let run = async move {
        tokio::time::sleep(delay).await;
        let end = stream::run(&xds, &sink).await;
        // An actor that is gone does not need the message.
        _ = myself.cast(Msg::Ended(end));
    };
    OwnedTask::spawn("xds/stream", run, move |exit| {
        if let TaskExit::Panicked { message } = exit {
            _ = reporter.cast(Msg::Panicked(message));
        }
    })
}
