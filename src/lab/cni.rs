//! The lab's istio-cni agent of one node, which hands pods over to the proxy (docs/spec/dataplane.md 6).

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::control::mesh_file::Pod;
use crate::{
    protocols::zds::{
        PodInfo,
        codec::{Answer, Request, decode_answer, decode_hello, encode_request},
    },
    supervisor::OwnedTask,
    sys::fdpass::{SeqListener, SeqPacket},
};

/// The time limit for the proxy's greeting and for each of its answers.
const CNI_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The number of connections accepted in one second.
const ACCEPTS_A_SECOND: usize = 5;
/// The number of requests that may wait for one connection.
const REQUEST_QUEUE: usize = 256;
/// The number of exchanges that the log keeps.
const LOG: usize = 4096;

/// A pod of the node.
#[derive(Clone, Debug)]
pub struct CniPod {
    /// The Kubernetes uid.
    pub uid: String,
    /// The pod's name, namespace and service account.
    pub info: PodInfo,
    /// The pod's network namespace; without one, a snapshot only says to keep the pod.
    pub netns: Option<Arc<OwnedFd>>,
}

/// One request and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The number of the connection, counted from 1.
    pub connection: u64,
    /// The request of the agent.
    pub request: Request,
    /// The outcome of the request.
    pub outcome: Outcome,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The proxy acknowledged the request.
    Done,
    /// The proxy refused the request, with this reason.
    Refused(String),
    /// The proxy gave no answer within 5 s.
    TimedOut,
    /// The connection ended before the answer.
    Lost,
}

/// The agent's view of its proxies.
#[derive(Clone, Debug, Default)]
pub struct CniStatus {
    /// The number of open connections that have greeted.
    pub connections: usize,
    /// The number of snapshots completed since the start.
    pub snapshots: u64,
    /// The number of connections closed since the start because the proxy spoke unasked or broke the protocol.
    pub violations: u64,
    /// The latest exchanges, oldest first.
    pub log: VecDeque<Exchange>,
}

/// The error of a pod that was not handed over or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The agent cannot listen on the socket.
    #[error("cannot listen on {}: {error}", path.display())]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the listener.
        error: io::Error,
    },
    /// No proxy is connected. The snapshot of the next proxy will contain the pod.
    #[error("no proxy is connected")]
    NoProxy,
    /// The proxy has not acknowledged the request.
    #[error("the proxy has not done it: {0:?}")]
    Failed(Outcome),
    /// Too many requests wait for the proxy.
    #[error("{REQUEST_QUEUE} requests wait for the proxy already")]
    Busy,
}

/// The agent of one node. Dropping the agent closes every connection and removes the socket.
pub struct Cni {
    shared: Arc<Shared>,
    path: PathBuf,
    _accept: OwnedTask,
}

struct Shared {
    pods: Mutex<BTreeMap<String, CniPod>>,
    connections: Mutex<Connections>,
    status: watch::Sender<CniStatus>,
}

#[derive(Default)]
struct Connections {
    closed: bool,
    last: u64,
    tasks: BTreeMap<u64, OwnedTask>,
    /// The connections that have greeted; the greatest number is the newest.
    greeted: BTreeMap<u64, mpsc::Sender<Command>>,
}

/// A live request for one connection.
struct Command {
    say: Say,
    netns: Option<Arc<OwnedFd>>,
    reply: oneshot::Sender<Outcome>,
}

/// What a connection says.
enum Say {
    Request(Request),
    /// Bytes that need not be a message.
    Bytes(Vec<u8>),
}

/// One connection, which its task owns.
struct Connection {
    number: u64,
    socket: SeqPacket,
    shared: Arc<Shared>,
}

/// The reason why a connection is closed.
enum End {
    /// The proxy has closed the connection.
    Gone,
    /// The proxy spoke unasked, or broke the protocol.
    Violation(String),
}

// === impl CniPod ===

impl CniPod {
    /// The pod of a mesh file.
    pub fn of(pod: &Pod, netns: Option<Arc<OwnedFd>>) -> Self {
        let info = PodInfo {
            name: pod.name.as_str().into(),
            namespace: pod.namespace.as_str().into(),
            service_account: pod.service_account.as_str().into(),
        };
        Self { uid: pod.kubernetes_uid(), info, netns }
    }

    fn request(&self) -> Request {
        let uid = self.uid.clone();
        match self.netns {
            Some(_) => Request::Add { uid, info: Some(self.info.clone()) },
            None => Request::Keep { uid },
        }
    }
}

// === impl Cni ===

impl Cni {
    /// Listens at `path` on the current tokio runtime. A socket left there by an earlier agent is replaced.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub fn start(path: &Path) -> Result<Self, CniError> {
        let failed = |error| CniError::Listen { path: path.into(), error };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = SeqListener::bind(path).map_err(failed)?;
        let shared = Arc::new(Shared {
            pods: Mutex::default(),
            connections: Mutex::default(),
            status: watch::Sender::new(CniStatus::default()),
        });
        let accept = OwnedTask::spawn("lab/cni/accept", accept(shared.clone(), listener), |_| {});
        Ok(Self { shared, path: path.into(), _accept: accept })
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands a pod to the newest proxy, and from now on to every new proxy.
    ///
    /// # Errors
    /// No proxy is connected, or the proxy has not acknowledged. The agent keeps the pod either way.
    pub async fn add(&self, pod: CniPod) -> Result<(), CniError> {
        let (request, netns) = (pod.request(), pod.netns.clone());
        self.shared.pods.lock().insert(pod.uid.clone(), pod);
        let newest = self.shared.connections.lock().greeted.last_key_value().map(|(_, to)| to.clone());
        ask(&newest.ok_or(CniError::NoProxy)?, Say::Request(request), netns).await
    }

    /// Sends the newest proxy one packet of any bytes, as a broken agent would.
    ///
    /// # Errors
    /// No proxy is connected, or the proxy has not acknowledged: it refuses, or hangs up.
    pub async fn send_bytes(&self, bytes: Vec<u8>) -> Result<(), CniError> {
        let newest = self.shared.connections.lock().greeted.last_key_value().map(|(_, to)| to.clone());
        ask(&newest.ok_or(CniError::NoProxy)?, Say::Bytes(bytes), None).await
    }

    /// Takes a pod back from every proxy. Without a connected proxy the call succeeds.
    ///
    /// # Errors
    /// A proxy has not acknowledged.
    pub async fn del(&self, uid: &str) -> Result<(), CniError> {
        self.shared.pods.lock().remove(uid);
        let all: Vec<_> = self.shared.connections.lock().greeted.values().cloned().collect();
        let mut result = Ok(());
        for to in all {
            let asked = ask(&to, Say::Request(Request::Del { uid: uid.into() }), None).await;
            result = result.and(asked);
        }
        result
    }

    /// Adds a pod to the agent without telling a proxy that is already connected.
    pub fn know(&self, pod: CniPod) {
        self.shared.pods.lock().insert(pod.uid.clone(), pod);
    }

    /// The current status of connections, snapshots and answers, and its changes.
    pub fn status(&self) -> watch::Receiver<CniStatus> {
        self.shared.status.subscribe()
    }

    /// Closes every connection; the proxies will dial again.
    pub fn hang_up(&self) {
        let tasks = std::mem::take(&mut self.shared.connections.lock().tasks);
        drop(tasks);
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        // The tasks hold the shared state, so the state would never drop by itself.
        let mut connections = self.shared.connections.lock();
        connections.closed = true;
        let tasks = std::mem::take(&mut connections.tasks);
        drop(connections);
        drop(tasks);
        // An error means that the socket is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

async fn ask(to: &mpsc::Sender<Command>, say: Say, netns: Option<Arc<OwnedFd>>) -> Result<(), CniError> {
    let (reply, outcome) = oneshot::channel();
    to.try_send(Command { say, netns, reply }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => CniError::Busy,
        mpsc::error::TrySendError::Closed(_) => CniError::Failed(Outcome::Lost),
    })?;
    match outcome.await.unwrap_or(Outcome::Lost) {
        Outcome::Done => Ok(()),
        other => Err(CniError::Failed(other)),
    }
}

async fn accept(shared: Arc<Shared>, listener: SeqListener) {
    let mut recent = VecDeque::with_capacity(ACCEPTS_A_SECOND);
    loop {
        if recent.len() == ACCEPTS_A_SECOND
            && let Some(oldest) = recent.pop_front()
        {
            sleep_until(oldest + Duration::from_secs(1)).await;
        }
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!("cannot accept a proxy: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        recent.push_back(Instant::now());
        let mut connections = shared.connections.lock();
        if connections.closed {
            return;
        }
        connections.last += 1;
        let number = connections.last;
        let ended = shared.clone();
        let connection = Connection { number, socket, shared: shared.clone() };
        let task = OwnedTask::spawn(format!("lab/cni/{number}"), connection.run(), move |_| {
            ended.forget(number);
        });
        connections.tasks.insert(number, task);
    }
}

// === impl Shared ===

impl Shared {
    fn forget(&self, number: u64) {
        let mut connections = self.connections.lock();
        let task = connections.tasks.remove(&number);
        let greeted = connections.greeted.remove(&number).is_some();
        drop(connections);
        drop(task);
        if greeted {
            self.status.send_modify(|status| status.connections -= 1);
        }
    }
}

// === impl Connection ===

impl Connection {
    async fn run(self) {
        if let End::Violation(why) = self.serve().await {
            tracing::warn!(connection = self.number, "proxy disconnected: {why}");
            self.shared.status.send_modify(|status| status.violations += 1);
        }
    }

    async fn serve(&self) -> End {
        let hello = match timeout(CNI_ANSWER_WITHIN, self.socket.recv()).await {
            Ok(Ok(Some(packet))) => packet,
            Ok(Ok(None) | Err(_)) => return End::Gone,
            Err(_) => return End::Violation("no greeting within 5 s".into()),
        };
        if let Err(error) = decode_hello(&hello.bytes) {
            return End::Violation(error.to_string());
        }
        let (commands, mut queue) = mpsc::channel(REQUEST_QUEUE);
        self.shared.connections.lock().greeted.insert(self.number, commands);
        self.shared.status.send_modify(|status| status.connections += 1);
        // Pods that arrive from here on are queued behind the snapshot.
        let pods: Vec<CniPod> = self.shared.pods.lock().values().cloned().collect();
        for pod in pods {
            if let Err(end) = self.exchange(pod.request(), pod.netns.as_deref()).await {
                return end;
            }
        }
        if let Err(end) = self.exchange(Request::SnapshotSent, None).await {
            return end;
        }
        self.shared.status.send_modify(|status| status.snapshots += 1);
        loop {
            let command = tokio::select! {
                command = queue.recv() => command,
                packet = self.socket.recv() => return match packet {
                    Ok(Some(_)) => End::Violation("it spoke unasked".into()),
                    Ok(None) | Err(_) => End::Gone,
                },
            };
            let Some(Command { say, netns, reply }) = command else { return End::Gone };
            let outcome = match say {
                Say::Request(request) => self.exchange(request, netns.as_deref()).await,
                Say::Bytes(bytes) => self.talk(&bytes, None).await,
            };
            match outcome {
                // The caller that waited for the outcome may have given up.
                Ok(outcome) => drop(reply.send(outcome)),
                Err(end) => return end,
            }
        }
    }

    /// Sends one request and waits for its answer. After a time-out the connection goes on, as with the real agent. A
    /// late answer then counts as the answer to the next request, or as unasked speech.
    async fn exchange(&self, request: Request, netns: Option<&OwnedFd>) -> Result<Outcome, End> {
        let outcome = self.talk(&encode_request(&request), netns).await;
        let noted = outcome.as_ref().map_or(Outcome::Lost, Clone::clone);
        tracing::debug!(connection = self.number, ?request, ?noted, "exchange with the proxy");
        self.shared.status.send_modify(|status| {
            if status.log.len() == LOG {
                status.log.pop_front();
            }
            status.log.push_back(Exchange { connection: self.number, request, outcome: noted });
        });
        outcome
    }

    /// Sends one packet and waits for its answer.
    async fn talk(&self, packet: &[u8], netns: Option<&OwnedFd>) -> Result<Outcome, End> {
        let fd = netns.map(AsFd::as_fd);
        let talk = async {
            if self.socket.send(packet, fd).await.is_err() {
                return Err(End::Gone);
            }
            match self.socket.recv().await {
                Ok(Some(packet)) => match decode_answer(&packet.bytes) {
                    Ok(Answer::Done) => Ok(Outcome::Done),
                    Ok(Answer::Refused(why)) => Ok(Outcome::Refused(why)),
                    Err(error) => Err(End::Violation(error.to_string())),
                },
                Ok(None) | Err(_) => Err(End::Gone),
            }
        };
        timeout(CNI_ANSWER_WITHIN, talk).await.unwrap_or(Ok(Outcome::TimedOut))
    }
}

#[cfg(test)]
mod tests;
