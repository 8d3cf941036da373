//! The session decides which pods are served by istio-cni's requests: the behaviour table of docs/spec/dataplane.md 6.
//!
//! Each pod has at most one running operation, and at most one request is unanswered. A start that fails or hangs
//! affects only its pod. The request is refused within [`ZDS_ANSWER_WITHIN`], the node is not ready, and the start is
//! retried.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    NetnsId, PodInfo,
    codec::{Answer, Request, decode_request},
};

/// The deadline of an answer. The agent gives up after 5 s and takes a later answer for the answer to its next request.
/// Limit: an answer to istio-cni: 4 s; past it: the request is refused.
pub(crate) const ZDS_ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// The interval between retries of a failed start.
/// Limit: pause before a failed start of a pod is tried again: 5 s; past it: the start is tried again.
pub(crate) const POD_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The maximum number of pods, and of uids named in a snapshot.
/// Limit: pods of the hand-over: 4096; past it: the pod is refused by name.
pub(crate) const MAX_SESSION_PODS: usize = 4096;

/// A network namespace and its handle outside this core: a descriptor, or a number in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Netns<N> {
    /// The id of the network namespace.
    pub id: NetnsId,
    /// The handle that opens the network namespace.
    pub handle: N,
}

/// A pod to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod<N> {
    /// The Kubernetes uid.
    pub uid: Arc<str>,
    /// The pod's names.
    pub info: PodInfo,
    /// The pod's network namespace.
    pub netns: Netns<N>,
}

/// A decoded packet of the agent, checked without regard to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask<N> {
    /// Serve this pod.
    Add(Arc<str>, Option<PodInfo>, Netns<N>),
    /// Do not stop this pod at the end of the snapshot.
    Keep(Arc<str>),
    /// Stop this pod.
    Del(Arc<str>),
    /// The snapshot is complete.
    SnapshotSent,
    /// The packet is no valid request for this reason.
    Bad(String),
}

/// An event that the session handles.
#[derive(Clone, Debug)]
pub(crate) enum Event<N> {
    /// A connection is established and the greeting is sent.
    Connected,
    /// A packet arrived. The next packet may be read once this packet is answered.
    Asked(Ask<N>),
    /// The connection was lost.
    Disconnected,
    /// The start with this number ended, with the reason if the start failed.
    PodStarted(u64, Arc<str>, Result<(), String>),
    /// The stop with this number ended.
    PodStopped(u64, Arc<str>),
    /// [`Session::next_wake`] has come.
    Tick,
}

/// An action that the caller carries out. The caller keeps the order of the effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<N> {
    /// Start serving the pod and report [`Event::PodStarted`] with this number.
    Start(u64, Pod<N>),
    /// Abort a running start, cut all connections of the pod, and report [`Event::PodStopped`].
    Stop(u64, Arc<str>),
    /// Answer the packet, then carry out the second value.
    Answer(Answer, Then),
}

/// The action that follows an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Read the next packet.
    Continue,
    /// Hang up and dial again.
    Disconnect,
    /// Exit with this reason: the agent broke the protocol, and the set of pods is in doubt.
    Exit(String),
}

/// The state of the connection to the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// There is no connection.
    #[default]
    Down,
    /// The agent is sending its snapshot of pods.
    Snapshot,
    /// The snapshot is complete.
    Live,
}

/// The numbers of pods, starts and stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of pods served now.
    pub active: u64,
    /// The number of pods that are requested but not served.
    pub pending: u64,
    /// The number of successful starts since the proxy began.
    pub started: u64,
    /// The number of stops of served pods since the proxy began.
    pub stopped: u64,
}

/// A pod that is requested but not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The Kubernetes uid.
    pub uid: Arc<str>,
    /// `namespace/name`, unless the pod is only kept from an earlier connection.
    pub name: Option<String>,
    /// The reason why the pod is not served.
    pub reason: String,
}

/// The status for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the agent is connected, the snapshot is complete and no pod is pending.
    pub ready: bool,
    /// The state of the connection.
    pub link: Link,
    /// The pods that are requested but not served, by uid.
    pub pending: Vec<Pending>,
    /// The counters.
    pub counts: Counts,
}

/// The core. `N` stands for an open network namespace.
#[derive(Debug)]
pub(crate) struct Session<N> {
    pods: BTreeMap<Arc<str>, Entry<N>>,
    link: Link,
    /// The uids named since the connection began, until the snapshot is complete.
    named: BTreeSet<Arc<str>>,
    waiting: Option<Waiting>,
    retry_at: Option<Instant>,
    last_op: u64,
    started: u64,
    stopped: u64,
    broken: bool,
}

#[derive(Debug)]
struct Entry<N> {
    state: State<N>,
    /// The reason why the pod is not served although it should be. A pod with a reason is pending.
    trouble: Option<String>,
}

#[derive(Debug)]
enum State<N> {
    Starting {
        op: u64,
        pod: Pod<N>,
    },
    Running(NetnsId),
    Stopping {
        op: u64,
        then: Option<Pod<N>>,
    },
    /// The start failed and is retried at `retry_at`.
    Failed(Pod<N>),
}

/// The one request whose answer depends on a start.
#[derive(Debug)]
struct Waiting {
    uid: Arc<str>,
    until: Instant,
}

/// The end of a start: its number, its pod, and the reason if it failed.
struct StartEnded {
    op: u64,
    uid: Arc<str>,
    result: Result<(), String>,
}

// === impl State ===

impl<N> State<N> {
    /// `namespace/name` of the pod that is to be served.
    fn pod_name(&self) -> Option<String> {
        match self {
            Self::Starting { pod, .. } | Self::Stopping { then: Some(pod), .. } | Self::Failed(pod) => {
                Some(format!("{}/{}", pod.info.namespace, pod.info.name))
            }
            Self::Running(_) | Self::Stopping { then: None, .. } => None,
        }
    }
}

// === impl Ask ===

impl<N> Ask<N> {
    /// Decodes a packet and checks the namespaces that arrived with the packet.
    pub(crate) fn decode(packet: &[u8], namespaces: Vec<Netns<N>>) -> Self {
        let request = match decode_request(packet) {
            Ok(request) => request,
            Err(error) => return Self::Bad(error.to_string()),
        };
        let count = namespaces.len();
        match (request, namespaces.into_iter().next()) {
            (Request::Add { uid, info }, Some(netns)) if count == 1 => Self::Add(uid.into(), info, netns),
            (Request::Add { uid, .. }, _) => {
                Self::Bad(format!("add of pod {uid} came with {count} file descriptors, not with one"))
            }
            (_, Some(_)) => {
                Self::Bad(format!("{count} file descriptors came with a message that takes none"))
            }
            (Request::Keep { uid }, None) => Self::Keep(uid.into()),
            (Request::Del { uid }, None) => Self::Del(uid.into()),
            (Request::SnapshotSent, None) => Self::SnapshotSent,
        }
    }
}

// === impl Session ===

impl<N: Clone> Session<N> {
    /// Makes a session without a connection for the pods that already run. `counts` are those of the previous session,
    /// if there was one.
    pub(crate) fn new(running: impl IntoIterator<Item = (Arc<str>, NetnsId)>, counts: Counts) -> Self {
        let entry = |(uid, id)| (uid, Entry { state: State::Running(id), trouble: None });
        Self {
            pods: running.into_iter().map(entry).collect(),
            link: Link::Down,
            named: BTreeSet::new(),
            waiting: None,
            retry_at: None,
            last_op: 0,
            started: counts.started,
            stopped: counts.stopped,
            broken: false,
        }
    }

    /// Handles `event` and returns the effects to carry out.
    pub(crate) fn on(&mut self, now: Instant, event: Event<N>) -> Vec<Effect<N>> {
        let mut out = Vec::new();
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => {
                self.link = Link::Down;
                self.waiting = None;
            }
            Event::Asked(ask) => self.asked(now, ask, &mut out),
            Event::PodStarted(op, uid, result) => {
                self.pod_started(now, StartEnded { op, uid, result }, &mut out)
            }
            Event::PodStopped(op, uid) => self.pod_stopped(op, &uid, &mut out),
            Event::Tick => {}
        }
        self.due(now, &mut out);
        out
    }

    /// The moment at which [`Event::Tick`] is due if no other event happens before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|w| w.until).into_iter().chain(self.retry_at).min()
    }

    /// The present status for readiness and metrics.
    pub(crate) fn status(&self) -> Status {
        let pending: Vec<Pending> = self
            .pods
            .iter()
            .filter_map(|(uid, e)| {
                Some(Pending { uid: uid.clone(), name: e.state.pod_name(), reason: e.trouble.clone()? })
            })
            .collect();
        let running = self.pods.values().filter(|e| matches!(e.state, State::Running(_))).count();
        Status {
            ready: self.link == Link::Live && pending.is_empty() && !self.broken,
            link: self.link,
            counts: Counts {
                active: running as u64,
                pending: pending.len() as u64,
                started: self.started,
                stopped: self.stopped,
            },
            pending,
        }
    }

    /// Begins a new snapshot for a new connection and forgets pending pods, because the agent repeats its requests.
    fn connected(&mut self) {
        self.link = Link::Snapshot;
        self.named.clear();
        self.waiting = None;
        self.retry_at = None;
        self.pods.retain(|_, entry| {
            entry.trouble = None;
            !matches!(entry.state, State::Failed(_))
        });
    }

    fn asked(&mut self, now: Instant, ask: Ask<N>, out: &mut Vec<Effect<N>>) {
        if self.waiting.take().is_some() {
            refuse(out, "overtaken by the next request".into());
        }
        match ask {
            Ask::Bad(why) => out.push(Effect::Answer(Answer::Refused(why), Then::Disconnect)),
            Ask::Add(uid, None, _) => self.broken_by(format!("add of pod {uid} without workload info"), out),
            Ask::Add(uid, Some(info), netns) => self.add(now, Pod { uid, info, netns }, out),
            Ask::Keep(uid) if self.link == Link::Live => {
                self.broken_by(format!("keep of pod {uid} after the snapshot"), out);
            }
            Ask::Keep(uid) => match self.name(uid) {
                Ok(()) => done(out),
                Err(why) => refuse(out, why),
            },
            Ask::Del(uid) => {
                if self.link == Link::Live {
                    self.stop(&uid, out);
                } else {
                    self.named.remove(&uid);
                    self.forget_failed(&uid);
                }
                done(out);
            }
            Ask::SnapshotSent if self.link == Link::Live => {
                self.broken_by("a second end of the snapshot".into(), out);
            }
            Ask::SnapshotSent => {
                self.link = Link::Live;
                let named = mem::take(&mut self.named);
                let gone: Vec<_> = self.pods.keys().filter(|uid| !named.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.stop(&uid, out);
                }
                done(out);
            }
        }
    }

    fn add(&mut self, now: Instant, pod: Pod<N>, out: &mut Vec<Effect<N>>) {
        if pod.uid.is_empty() {
            return refuse(out, "add of a pod without a uid".into());
        }
        if let Err(why) = self.name(pod.uid.clone()) {
            return refuse(out, why);
        }
        let uid = pod.uid.clone();
        let (before, trouble) = self.pods.remove(&uid).map_or((None, None), |e| (Some(e.state), e.trouble));
        let state = match before {
            Some(State::Running(id)) if id == pod.netns.id => {
                done(out);
                self.pods.insert(uid, Entry { state: State::Running(id), trouble });
                return;
            }
            Some(State::Starting { op, pod: old }) if old.netns.id == pod.netns.id => {
                State::Starting { op, pod: old }
            }
            Some(State::Running(_)) => {
                self.stopped += 1;
                self.stopping(&uid, Some(pod), out)
            }
            Some(State::Starting { .. }) => self.stopping(&uid, Some(pod), out),
            Some(State::Stopping { op, .. }) => State::Stopping { op, then: Some(pod) },
            Some(State::Failed(_)) | None => self.starting(pod, out),
        };
        self.pods.insert(uid.clone(), Entry { state, trouble });
        self.waiting = Some(Waiting { uid, until: now + ZDS_ANSWER_WITHIN });
    }

    /// Notes that the agent has named `uid`, unless that would exceed a bound.
    fn name(&mut self, uid: Arc<str>) -> Result<(), String> {
        let known = self.pods.contains_key(&uid) || self.named.contains(&uid);
        if !known && self.pods.len().max(self.named.len()) >= MAX_SESSION_PODS {
            return Err(format!("this node has {MAX_SESSION_PODS} pods already, the most this proxy serves"));
        }
        if self.link != Link::Live {
            self.named.insert(uid);
        }
        Ok(())
    }

    /// Stops the pod in any state, and forgets that the pod was requested.
    fn stop(&mut self, uid: &Arc<str>, out: &mut Vec<Effect<N>>) {
        let Some(entry) = self.pods.remove(uid) else { return };
        let state = match entry.state {
            State::Failed(_) => return,
            State::Running(_) => {
                self.stopped += 1;
                self.stopping(uid, None, out)
            }
            State::Starting { .. } => self.stopping(uid, None, out),
            State::Stopping { op, .. } => State::Stopping { op, then: None },
        };
        self.pods.insert(uid.clone(), Entry { state, trouble: None });
    }

    /// Handles a deletion before the end of the snapshot, which only drops a failed start or a planned restart. The end
    /// of the snapshot stops other pods.
    fn forget_failed(&mut self, uid: &Arc<str>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.trouble = None;
        match &mut entry.state {
            State::Failed(_) => {
                self.pods.remove(uid);
            }
            State::Stopping { then, .. } => *then = None,
            State::Starting { .. } | State::Running(_) => {}
        }
    }

    fn pod_started(
        &mut self,
        now: Instant,
        StartEnded { op, uid, result }: StartEnded,
        out: &mut Vec<Effect<N>>,
    ) {
        let Some(entry) = self.pods.get_mut(&uid) else { return };
        let State::Starting { op: current, pod } = &entry.state else { return };
        if *current != op {
            return;
        }
        match result {
            Ok(()) => {
                entry.state = State::Running(pod.netns.id);
                entry.trouble = None;
                self.started += 1;
                self.answer_waiting(&uid, Answer::Done, out);
            }
            Err(why) => {
                entry.trouble = Some(why.clone());
                entry.state = State::Failed(pod.clone());
                self.retry_at.get_or_insert(now + POD_RETRY_INTERVAL);
                self.answer_waiting(&uid, Answer::Refused(why), out);
            }
        }
    }

    fn pod_stopped(&mut self, op: u64, uid: &Arc<str>, out: &mut Vec<Effect<N>>) {
        let Some(Entry { state: State::Stopping { op: current, then }, .. }) = self.pods.get_mut(uid) else {
            return;
        };
        if *current != op {
            return;
        }
        let Some(pod) = then.take() else {
            self.pods.remove(uid);
            return;
        };
        let state = self.starting(pod, out);
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.state = state;
        }
    }

    /// Handles the passing of time: it refuses a request whose deadline has passed, and retries failed starts.
    fn due(&mut self, now: Instant, out: &mut Vec<Effect<N>>) {
        if let Some(waiting) = self.waiting.take_if(|w| w.until <= now) {
            let why = format!("its proxy has not started within {} s", ZDS_ANSWER_WITHIN.as_secs());
            if let Some(entry) = self.pods.get_mut(&waiting.uid) {
                entry.trouble = Some(why.clone());
            }
            refuse(out, why);
        }
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            for entry in self.pods.values_mut() {
                if let State::Failed(pod) = &entry.state {
                    self.last_op += 1;
                    out.push(Effect::Start(self.last_op, pod.clone()));
                    entry.state = State::Starting { op: self.last_op, pod: pod.clone() };
                }
            }
        }
    }

    fn answer_waiting(&mut self, uid: &Arc<str>, answer: Answer, out: &mut Vec<Effect<N>>) {
        if self.waiting.take_if(|w| w.uid == *uid).is_some() {
            out.push(Effect::Answer(answer, Then::Continue));
        }
    }

    fn starting(&mut self, pod: Pod<N>, out: &mut Vec<Effect<N>>) -> State<N> {
        self.last_op += 1;
        out.push(Effect::Start(self.last_op, pod.clone()));
        State::Starting { op: self.last_op, pod }
    }

    fn stopping(&mut self, uid: &Arc<str>, then: Option<Pod<N>>, out: &mut Vec<Effect<N>>) -> State<N> {
        self.last_op += 1;
        out.push(Effect::Stop(self.last_op, uid.clone()));
        State::Stopping { op: self.last_op, then }
    }

    fn broken_by(&mut self, why: String, out: &mut Vec<Effect<N>>) {
        self.broken = true;
        out.push(Effect::Answer(Answer::Refused(why.clone()), Then::Exit(why)));
    }
}

// === impl Status ===

impl Status {
    /// The text of what keeps the node from being ready, or `None` if the node is ready.
    pub fn detail(&self) -> Option<String> {
        let link = match self.link {
            Link::Down => Some("not connected to istio-cni".to_owned()),
            Link::Snapshot => Some("istio-cni has not yet named all pods".to_owned()),
            Link::Live => None,
        };
        let pods = self.pending.iter().map(|Pending { uid, name, reason }| match name {
            Some(name) => format!("pod {name} ({uid}): {reason}"),
            None => format!("pod {uid}: {reason}"),
        });
        let parts: Vec<String> = link.into_iter().chain(pods).collect();
        match (self.ready, parts.is_empty()) {
            (true, _) => None,
            (false, false) => Some(parts.join("; ")),
            (false, true) => Some("istio-cni broke the protocol".to_owned()),
        }
    }
}

fn done<N>(out: &mut Vec<Effect<N>>) {
    out.push(Effect::Answer(Answer::Done, Then::Continue));
}

fn refuse<N>(out: &mut Vec<Effect<N>>, why: String) {
    out.push(Effect::Answer(Answer::Refused(why), Then::Continue));
}

#[cfg(test)]
mod tests;
