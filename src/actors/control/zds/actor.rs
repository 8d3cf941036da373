//! The hand-over actor receives messages, asks the session, and performs the effects that the session returns.

use std::{collections::HashMap, sync::Arc};

use ractor::ActorProcessingErr;
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    link,
    message::{AgentRequest, Msg},
    pods::{POD_OPERATION_LIMIT, PodSpec, Pods},
    status::Shared,
};
use crate::{
    protocols::zds::{
        codec::Answer,
        session::{Effect, Event, Link, Pod, Session, Then},
    },
    supervisor::{Actor, ActorRef, OwnedTask, TaskExit, watch_panics},
    sys::netns::NetNs,
};

/// The actor that owns the connection, the operations on pods and the timer.
pub(super) struct ZdsActor<P> {
    pods: P,
}

pub(super) struct State {
    shared: Arc<Shared>,
    session: Session<NetNs>,
    /// The sender of the answer to the agent's request.
    reply: Option<oneshot::Sender<(Answer, Then)>>,
    operations: HashMap<Arc<str>, Operation>,
    wake: Option<(std::time::Instant, OwnedTask)>,
    _link: OwnedTask,
}

/// The operation that is under way for a pod.
struct Operation {
    number: u64,
    /// The pod's `namespace/name`, if the operation is a start.
    name: Option<Arc<str>>,
    /// The lock that the operation's work holds. The next operation begins only when the future of this one is
    /// dropped.
    turn: Arc<Mutex<()>>,
    _task: OwnedTask,
}

/// A new operation and its pod.
struct NewOperation {
    number: u64,
    uid: Arc<str>,
    /// The pod's `namespace/name`, if the operation is a start.
    name: Option<Arc<str>>,
}

/// The failure of the link, which the actor returns to its supervisor.
#[derive(Debug, thiserror::Error)]
#[error("the connection task ended: {0:?}")]
struct LinkEnded(TaskExit);

// === impl ZdsActor ===

impl<P> ZdsActor<P> {
    pub(super) fn new(pods: P) -> Self {
        Self { pods }
    }
}

impl<P: Pods> Actor for ZdsActor<P> {
    type Msg = Msg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let counts = shared.status.borrow().session.counts;
        let running = self.pods.list().await.into_iter().map(|(uid, id)| (uid.into(), id));
        let session = Session::new(running, counts);
        let ended = myself.clone();
        let link = OwnedTask::spawn("zds/link", link::run(shared.clone(), myself), move |exit| {
            // The cast fails only if the actor has ended already.
            let _ = ended.cast(Msg::LinkEnded(exit));
        });
        let state =
            State { shared, session, reply: None, operations: HashMap::new(), wake: None, _link: link };
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            Msg::Connected => Event::Connected,
            Msg::Asked(AgentRequest { ask, reply }) => {
                state.reply = Some(reply);
                Event::Asked(ask)
            }
            Msg::Disconnected => Event::Disconnected,
            Msg::PodStarted(number, uid, result) => {
                let name = state.ended(number, &uid);
                let pod = name.as_deref();
                match &result {
                    Ok(()) => tracing::info!(uid = %uid, pod, "pod served"),
                    Err(why) => tracing::warn!(uid = %uid, pod, "pod not served: {why}"),
                }
                Event::PodStarted(number, uid, result)
            }
            Msg::PodStopped(number, uid) => {
                drop(state.ended(number, &uid));
                Event::PodStopped(number, uid)
            }
            Msg::Tick => {
                state.wake = None;
                Event::Tick
            }
            Msg::LinkEnded(exit) => return Err(LinkEnded(exit).into()),
        };
        for effect in state.session.on(Instant::now().into_std(), event) {
            match effect {
                Effect::Start(number, pod) => state.start(&self.pods, &myself, number, pod),
                Effect::Stop(number, uid) => state.stop(&self.pods, &myself, number, uid),
                Effect::Answer(answer, then) => {
                    // No task reads the answer once the connection is gone.
                    let _ = state.reply.take().map(|reply| reply.send((answer, then)));
                }
            }
        }
        state.arm(&myself);
        state.publish();
        Ok(())
    }
}

// === impl State ===

impl State {
    fn start<P: Pods>(&mut self, pods: &P, myself: &ActorRef<Msg>, number: u64, pod: Pod<NetNs>) {
        let Pod { uid, info, netns } = pod;
        let name = format!("{}/{}", info.namespace, info.name).into();
        let spec = PodSpec { uid: uid.clone(), info, netns: netns.handle, id: netns.id };
        let (pods, myself, of) = (pods.clone(), myself.clone(), uid.clone());
        let (told, whose) = (myself.clone(), uid.clone());
        let on_panic = move |panic| {
            let why = format!("its proxy panicked while starting: {panic}");
            let _ = told.cast(Msg::PodStarted(number, whose, Err(why)));
        };
        let work = async move {
            let result = match watch_panics(timeout(POD_OPERATION_LIMIT, pods.start(spec))).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => {
                    Err(format!("its proxy has not started within {} s", POD_OPERATION_LIMIT.as_secs()))
                }
                Err(panic) => Err(format!("its proxy panicked while starting: {panic}")),
            };
            let _ = myself.cast(Msg::PodStarted(number, of, result));
        };
        self.operate(NewOperation { number, uid, name: Some(name) }, work, on_panic);
    }

    fn stop<P: Pods>(&mut self, pods: &P, myself: &ActorRef<Msg>, number: u64, uid: Arc<str>) {
        let (pods, myself, of) = (pods.clone(), myself.clone(), uid.clone());
        let (told, whose) = (myself.clone(), uid.clone());
        let on_panic = move |_| drop(told.cast(Msg::PodStopped(number, whose)));
        let work = async move {
            match watch_panics(timeout(POD_OPERATION_LIMIT, pods.stop(&of))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!(uid = %of, "pod not stopped within {POD_OPERATION_LIMIT:?}"),
                Err(panic) => tracing::error!(uid = %of, "panic while stopping a pod: {panic}"),
            }
            let _ = myself.cast(Msg::PodStopped(number, of));
        };
        self.operate(NewOperation { number, uid, name: None }, work, on_panic);
    }

    /// Gives up the running operation of the pod and then runs `work`. `work` reports its own end; `on_panic` reports
    /// a panic.
    fn operate(
        &mut self,
        NewOperation { number, uid, name }: NewOperation,
        work: impl Future<Output = ()> + Send + 'static,
        on_panic: impl FnOnce(String) + Send + 'static,
    ) {
        let turn = self.operations.remove(&uid).map_or_else(Arc::default, |before| before.turn);
        let mine = turn.clone();
        let task = OwnedTask::spawn(
            format!("zds/pod/{uid}"),
            async move {
                let _turn = mine.lock_owned().await;
                work.await;
            },
            // An operation that was given up reports no end.
            move |exit| {
                if let TaskExit::Panicked { message } = exit {
                    on_panic(message);
                }
            },
        );
        self.operations.insert(uid, Operation { number, name, turn, _task: task });
    }

    /// Removes an operation that has ended, unless a newer one has replaced it. Returns the pod's name if it is
    /// known.
    fn ended(&mut self, number: u64, uid: &Arc<str>) -> Option<Arc<str>> {
        let is_latest = self.operations.get(uid).is_some_and(|operation| operation.number == number);
        if is_latest { self.operations.remove(uid)?.name } else { None }
    }

    /// Makes sure that [`Msg::Tick`] comes when the session wants a tick.
    fn arm(&mut self, myself: &ActorRef<Msg>) {
        let wanted = self.session.next_wake();
        if wanted == self.wake.as_ref().map(|(at, _)| *at) {
            return;
        }
        self.wake = wanted.map(|at| {
            let (myself, told) = (myself.clone(), myself.clone());
            let tick = async move {
                sleep_until(at.into()).await;
                let _ = myself.cast(Msg::Tick);
            };
            // A tick that comes too early arms the timer again.
            let on_exit = move |exit| {
                if let TaskExit::Panicked { .. } = exit {
                    let _ = told.cast(Msg::Tick);
                }
            };
            (at, OwnedTask::spawn("zds/timer", tick, on_exit))
        });
    }

    fn publish(&self) {
        let now = self.session.status();
        self.shared.status.send_if_modified(|status| {
            let changed = status.session != now;
            if changed {
                status.session = now;
            }
            changed
        });
    }
}

impl Drop for State {
    /// Marks the status as not ready: readers must not trust the last status of a dead actor.
    fn drop(&mut self) {
        self.shared.status.send_modify(|status| {
            status.session.ready = false;
            status.session.link = Link::Down;
        });
    }
}
