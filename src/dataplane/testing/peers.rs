//! Other proxies in a test: a dialer whose tunnels end at scripted HTTP/2 servers, and tunnels of peers to a pod.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite, duplex},
    sync::{Notify, mpsc, oneshot},
    time::sleep,
};

use super::spawn;
use crate::{
    dataplane::tunnel::{
        dialer::{DialError, Dialer, Dialling, TunnelKey},
        pool::PodPool,
    },
    protocols::{
        config::Http2Config,
        hbone::{client, server},
        mesh::fixtures::addr,
    },
    runtime::shard::Shard,
};

/// The planned outcome of a dial.
#[derive(Clone, Copy)]
pub(crate) enum DialPlan {
    /// The dial gives a tunnel at once.
    Tunnel,
    /// The dial gives a tunnel after this time.
    TunnelAfter(Duration),
    /// The dial fails with this error.
    Fail(fn(SocketAddr) -> DialError),
    /// The dial never ends.
    Silent,
}

/// The peers of a pod. A dial without a plan gives a tunnel at once.
#[derive(Clone)]
pub(crate) struct TestPeers(Rc<Peers>);

struct Peers {
    state: RefCell<State>,
    /// The number of streams that a tunnel takes.
    streams: Cell<usize>,
    news: Notify,
}

#[derive(Default)]
struct State {
    plans: HashMap<SocketAddr, DialPlan>,
    dialled: Vec<SocketAddr>,
    asked: HashMap<SocketAddr, VecDeque<Asked>>,
    tunnels: Vec<mpsc::Sender<Order>>,
}

/// An action of a peer on its tunnel.
#[derive(Clone, Copy, Debug)]
enum Order {
    GoAway,
    Abort(Reason),
    Break,
}

/// The channel that gets the outcome of a dial.
type Reply = oneshot::Sender<Result<(), Arc<DialError>>>;

/// Dials for a pod through the pod's [`TestPeers`].
struct TestDialer(mpsc::Sender<(TunnelKey, Reply)>);

/// A request that a peer has received.
pub(crate) struct Asked {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    /// The number of the dial that led to the peer, from 0.
    pub(crate) tunnel: usize,
}

/// A peer's end of a stream.
pub(crate) struct PeerStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
}

/// The end of a stream as the peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The proxy sent END_STREAM.
    Finished,
    /// The proxy sent RST_STREAM.
    Reset(Reason),
    /// The tunnel broke.
    Broken,
}

impl Dialer for TestDialer {
    fn dial<'a>(&'a self, key: &'a TunnelKey, _: usize) -> Dialling<'a> {
        Box::pin(async move {
            let (reply, dialled) = oneshot::channel();
            self.0.send((key.clone(), reply)).await.unwrap();
            dialled.await.unwrap()
        })
    }

    fn panicked(&self, kind: &'static str, _: usize, message: &str) {
        panic!("{kind}: {message}");
    }
}

// === impl TestPeers ===

impl TestPeers {
    /// The peers of the pod with this serial number, and the dialer of tunnels to the peers.
    pub(crate) fn new(shard: &Shard, serial: u64) -> (Self, Arc<dyn Dialer>) {
        let this =
            Self(Rc::new(Peers { state: RefCell::default(), streams: Cell::new(100), news: Notify::new() }));
        let (dial, mut dials) = mpsc::channel(100);
        let (peers, pool) = (this.clone(), PodPool::of(shard, serial));
        spawn(async move {
            while let Some((key, reply)) = dials.recv().await {
                spawn(peers.clone().dial(pool.clone(), key, reply));
            }
        });
        (this, Arc::new(TestDialer(dial)))
    }

    pub(crate) fn plan(&self, to: &str, plan: DialPlan) {
        self.0.state.borrow_mut().plans.insert(addr(to), plan);
    }

    /// Lets tunnels that are dialled from now on take `streams` streams.
    pub(crate) fn limit_streams(&self, streams: usize) {
        self.0.streams.set(streams);
    }

    /// The addresses of the dials so far.
    pub(crate) fn dialled(&self) -> Vec<String> {
        self.0.state.borrow().dialled.iter().map(ToString::to_string).collect()
    }

    /// The next request at the peer `to`.
    pub(crate) async fn asked(&self, to: &str) -> Asked {
        let to = addr(to);
        loop {
            let news = self.0.news.notified();
            if let Some(asked) = self.0.state.borrow_mut().asked.get_mut(&to).and_then(VecDeque::pop_front) {
                return asked;
            }
            news.await;
        }
    }

    /// The next request that the peer `to` has received already.
    pub(crate) fn asked_now(&self, to: &str) -> Option<Asked> {
        self.0.state.borrow_mut().asked.get_mut(&addr(to)).and_then(VecDeque::pop_front)
    }

    /// Makes the peer of this tunnel refuse further streams.
    pub(crate) async fn go_away(&self, tunnel: usize) {
        self.order(tunnel, Order::GoAway).await;
    }

    /// Makes the peer of this tunnel end the tunnel and its streams by a GOAWAY.
    pub(crate) async fn abort(&self, tunnel: usize, why: Reason) {
        self.order(tunnel, Order::Abort(why)).await;
    }

    /// Breaks the TCP connection of this tunnel.
    pub(crate) async fn break_tunnel(&self, tunnel: usize) {
        self.order(tunnel, Order::Break).await;
    }

    async fn order(&self, tunnel: usize, order: Order) {
        let to = self.0.state.borrow().tunnels[tunnel].clone();
        to.send(order).await.unwrap();
        // The sleep is long enough for the tunnel's other end to see the change, and shorter than any timeout.
        sleep(Duration::from_millis(1)).await;
    }

    async fn dial(self, pool: Rc<PodPool>, key: TunnelKey, reply: Reply) {
        let plan = {
            let mut state = self.0.state.borrow_mut();
            state.dialled.push(key.to);
            state.plans.get(&key.to).copied().unwrap_or(DialPlan::Tunnel)
        };
        match plan {
            DialPlan::Tunnel => {}
            DialPlan::TunnelAfter(time) => sleep(time).await,
            DialPlan::Fail(error) => return drop(reply.send(Err(Arc::new(error(key.to))))),
            DialPlan::Silent => return std::future::pending().await,
        }
        let (near, far) = duplex(1 << 20);
        let (order, orders) = mpsc::channel(1);
        let tunnel = {
            let mut state = self.0.state.borrow_mut();
            state.tunnels.push(order);
            state.tunnels.len() - 1
        };
        spawn(self.clone().serve(far, orders, (key.to, tunnel)));
        let (send, connection) = client::handshake(near, &Http2Config::default()).await.unwrap();
        let tunnel = pool.peer(&key).add(send, self.0.streams.get());
        spawn(async move {
            let _ = connection.await;
            pool.peer(&key).remove(&tunnel);
            pool.tidy(&key);
        });
        // The attempt may have given up.
        let _ = reply.send(Ok(()));
    }

    async fn serve(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin,
        mut orders: mpsc::Receiver<Order>,
        (to, tunnel): (SocketAddr, usize),
    ) {
        let mut connection = server::handshake(io, &Http2Config::default()).await.unwrap();
        loop {
            tokio::select! {
                biased;
                accepted = connection.accept() => {
                    let Some(Ok((request, respond))) = accepted else { return };
                    let asked = Asked { request, respond, tunnel };
                    self.0.state.borrow_mut().asked.entry(to).or_default().push_back(asked);
                    self.0.news.notify_waiters();
                }
                Some(order) = orders.recv() => match order {
                    Order::GoAway => connection.graceful_shutdown(),
                    Order::Abort(why) => connection.abrupt_shutdown(why),
                    Order::Break => return,
                },
            }
        }
    }
}

// === impl Asked ===

impl Asked {
    pub(crate) fn authority(&self) -> String {
        self.request.uri().to_string()
    }

    /// The value of a header; empty if the header is absent.
    pub(crate) fn header(&self, name: &str) -> String {
        let value = self.request.headers().get(name);
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// Whether the request has the header, even an empty one.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.request.headers().contains_key(name)
    }

    /// Waits for early data, which must be exactly this text.
    pub(crate) async fn hears(&mut self, text: &str) {
        assert_eq!(hear(self.request.body_mut(), text.len()).await, text);
    }

    /// The rest of the bytes of an unanswered request, and the end of the stream.
    pub(crate) async fn end(&mut self) -> (String, StreamEnd) {
        end(self.request.body_mut()).await
    }

    /// A request that came by another way than a tunnel of the pool.
    pub(crate) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        Self { request, respond, tunnel: 0 }
    }

    pub(crate) fn accept(self) -> PeerStream {
        self.accept_with(Response::new(()))
    }

    pub(crate) fn accept_with(mut self, answer: Response<()>) -> PeerStream {
        let send = self.respond.send_response(answer, false).unwrap();
        PeerStream { send, recv: self.request.into_body() }
    }

    pub(crate) fn answer(mut self, status: u16) {
        let answer = Response::builder().status(status).body(()).unwrap();
        self.respond.send_response(answer, true).unwrap();
    }

    pub(crate) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

// === impl PeerStream ===

impl PeerStream {
    /// Both halves, for a test that has more than text to send.
    pub(crate) fn into_parts(self) -> (SendStream<Bytes>, RecvStream) {
        (self.send, self.recv)
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.send.send_data(text.to_owned().into(), false).unwrap();
    }

    pub(crate) fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    pub(crate) fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Waits for exactly this text.
    pub(crate) async fn hears(&mut self, text: &str) {
        assert_eq!(hear(&mut self.recv, text.len()).await, text);
    }

    /// How the stream ends. The rest of its bytes, which need not be text, is dropped.
    pub(crate) async fn raw_end(&mut self) -> StreamEnd {
        raw_end(&mut self.recv).await.1
    }

    /// The rest of the bytes of the stream, and the end of the stream.
    pub(crate) async fn end(&mut self) -> (String, StreamEnd) {
        end(&mut self.recv).await
    }
}

async fn end(body: &mut RecvStream) -> (String, StreamEnd) {
    let (got, end) = raw_end(body).await;
    (String::from_utf8(got).unwrap(), end)
}

async fn raw_end(body: &mut RecvStream) -> (Vec<u8>, StreamEnd) {
    let mut got = Vec::new();
    let end = loop {
        match body.data().await {
            None => break StreamEnd::Finished,
            Some(Ok(data)) => got.extend(data),
            Some(Err(error)) => match error.reason() {
                Some(reason) if error.is_reset() => break StreamEnd::Reset(reason),
                _ => break StreamEnd::Broken,
            },
        }
    };
    (got, end)
}

async fn hear(body: &mut RecvStream, len: usize) -> String {
    let mut got = Vec::new();
    while got.len() < len {
        got.extend(body.data().await.expect("the stream has ended").unwrap());
    }
    String::from_utf8(got).unwrap()
}

/// Sends a request through a tunnel to a pod. Returns the answer's status and headers, and the stream.
pub(crate) async fn ask(
    send: &SendRequest<Bytes>,
    (method, uri): (Method, &str),
    headers: &[(&'static str, &str)],
) -> Result<(StatusCode, HeaderMap, PeerStream), h2::Error> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut send = send.clone().ready().await?;
    let (answer, send) = send.send_request(request.body(()).unwrap(), false)?;
    let (head, recv) = answer.await?.into_parts();
    Ok((head.status, head.headers, PeerStream { send, recv }))
}
