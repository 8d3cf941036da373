//! The network of a pod in a test. The test plans the outcome of connects for each address.

use std::{
    collections::{HashMap, VecDeque},
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::stream::{TestEnd, TestStream, connection};
use crate::{
    dataplane::pod::network::{ConnectFailed, Network},
    protocols::mesh::fixtures::{addr, ip},
    sys::pacing::PathScope,
};

/// The planned outcome of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The connect succeeds at once. [`TestNetwork::accepted`] gives the other end.
    Accept,
    /// The connect is refused.
    Refuse,
    /// The connect fails with an error of this kind.
    Fail(ErrorKind),
    /// The connect gets no answer.
    Silent,
    /// The connect succeeds after this time.
    AcceptAfter(Duration),
}

/// A connect that the proxy made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) to: SocketAddr,
    pub(crate) source: Option<IpAddr>,
    pub(crate) scope: PathScope,
}

/// A network without a kernel. A connect without a plan is refused.
pub(crate) struct TestNetwork {
    own: Vec<IpAddr>,
    timeout: Duration,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    plans: HashMap<SocketAddr, Plan>,
    made: Vec<Made>,
    accepted: HashMap<SocketAddr, VecDeque<TestEnd>>,
}

// === impl TestNetwork ===

impl TestNetwork {
    /// The network of a pod with these addresses. A connect without an answer fails after `timeout`.
    pub(crate) fn new(own: &str, timeout: Duration) -> Arc<Self> {
        let own = own.split_whitespace().map(ip).collect();
        Arc::new(Self { own, timeout, state: Mutex::default(), news: Notify::new() })
    }

    pub(crate) fn plan(&self, to: &str, plan: Plan) {
        self.state.lock().plans.insert(addr(to), plan);
    }

    /// The connects so far.
    pub(crate) fn made(&self) -> Vec<Made> {
        self.state.lock().made.clone()
    }

    /// The addresses of the connects so far.
    pub(crate) fn dialled(&self) -> Vec<String> {
        self.made().iter().map(|made| made.to.to_string()).collect()
    }

    /// The other end of the next connection to `to`.
    pub(crate) async fn accepted(&self, to: &str) -> TestEnd {
        let to = addr(to);
        loop {
            let news = self.news.notified();
            if let Some(end) = self.state.lock().accepted.get_mut(&to).and_then(VecDeque::pop_front) {
                return end;
            }
            news.await;
        }
    }
}

impl Network for TestNetwork {
    type Stream = TestStream;

    async fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        scope: PathScope,
    ) -> Result<TestStream, ConnectFailed> {
        let plan = {
            let mut state = self.state.lock();
            state.made.push(Made { to, source, scope });
            state.plans.get(&to).copied().unwrap_or(Plan::Refuse)
        };
        match plan {
            Plan::Accept => {}
            Plan::AcceptAfter(time) => sleep(time).await,
            Plan::Refuse => {
                return Err(ConnectFailed::Refused { to, error: ErrorKind::ConnectionRefused.into() });
            }
            Plan::Fail(kind) => return Err(ConnectFailed::Refused { to, error: kind.into() }),
            Plan::Silent => {
                sleep(self.timeout).await;
                return Err(ConnectFailed::TimedOut { to, after: self.timeout });
            }
        }
        let (end, stream) = connection(to, None);
        self.state.lock().accepted.entry(to).or_default().push_back(end);
        self.news.notify_waiters();
        Ok(stream)
    }

    fn source_towards(&self, client: IpAddr, to: IpAddr) -> Option<IpAddr> {
        (client != to && !to.is_loopback()).then_some(client)
    }

    fn owns(&self, ip: IpAddr, _: u64) -> bool {
        self.own.contains(&ip)
    }
}
