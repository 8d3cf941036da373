//! A small HTTP/1.1 server as an actor (docs/spec/controlplane.md 7.1).
//!
//! The actor owns the listeners; each has an accept loop that owns its connections. Killed, it starts again and binds
//! the same ports.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ractor::ActorProcessingErr;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    clients::{Admission, Clients, Place},
    http::{Answer, Handler, Stopping, text},
};
use crate::{
    actors::HUNG_AFTER,
    supervisor::{
        Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, TaskExit, faults::tripwire,
        report_task_panic, watch_panics,
    },
    telemetry::metrics::Metrics,
};

/// Bounds of a server.
/// Limit: the HTTP servers, each: 64 connections, of one address 16, 64 requests a connection, 2 s for a head, 30 s for
/// an answer, 10 s without a byte taken, 600 s for a connection, 3 s for its end; past it: the longest idle connection
/// makes room, a slow head closes, a slow answer is a 500, and a slow reader or old connection is cut.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Most connections at a time and listener. For more, the longest idle one makes room. If none is idle, more wait
    /// in the kernel's queue.
    pub connections: usize,
    /// Most connections of one address that is no loopback address.
    pub connections_each: usize,
    /// Most requests of one connection.
    pub requests: usize,
    /// How long a client may take to send a request's head, and may idle between requests.
    pub head_within: Duration,
    /// How long an answer may take to be found.
    pub answer_within: Duration,
    /// How long a client may take nothing of what is written to it.
    pub taken_within: Duration,
    /// How long a connection may last.
    pub connection_lifetime: Duration,
    /// How long a stop waits for requests under way.
    pub drain_within: Duration,
}

/// A server: what it is called, where it listens, what it answers. Outlives the actor that runs it.
#[derive(Clone)]
pub struct HttpServer(Arc<Inner>);

struct Inner {
    name: &'static str,
    addrs: Vec<SocketAddr>,
    limits: ServerLimits,
    handler: Handler,
    metrics: Arc<Metrics>,
    /// What the first start bound: with port 0 configured, restarts bind these.
    bound: OnceLock<Vec<SocketAddr>>,
    /// Whether the server is closed for good.
    closed: watch::Sender<bool>,
}

/// A server could not listen.
#[derive(Debug, thiserror::Error)]
#[error("the {name} server cannot listen on {addr}: {source}")]
pub(crate) struct BindError {
    name: &'static str,
    addr: SocketAddr,
    source: io::Error,
}

/// Sent by an accept loop to its actor.
#[derive(Debug)]
pub(super) enum Msg {
    /// It ended, which it never should.
    AcceptEnded(TaskExit),
}

pub(super) struct ServerActor(HttpServer);

pub(super) struct State {
    stop: watch::Sender<bool>,
    /// Resolve, with an error, when a loop and its connections are gone.
    done: Vec<oneshot::Receiver<Infallible>>,
    _loops: Vec<OwnedTask>,
}

// === impl ServerLimits ===

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_each: 16,
            requests: 64,
            head_within: Duration::from_secs(2),
            answer_within: Duration::from_secs(30),
            taken_within: Duration::from_secs(10),
            connection_lifetime: Duration::from_secs(600),
            drain_within: Duration::from_secs(3),
        }
    }
}

// === impl HttpServer ===

impl HttpServer {
    /// A server on `addrs`. Of several addresses, an IPv6 one that the machine does not have is left out.
    pub fn new(name: &'static str, addrs: Vec<SocketAddr>, handler: Handler, metrics: Arc<Metrics>) -> Self {
        Self::with_limits(name, addrs, handler, metrics, ServerLimits::default())
    }

    /// The same with limits of its own.
    pub fn with_limits(
        name: &'static str,
        addrs: Vec<SocketAddr>,
        handler: Handler,
        metrics: Arc<Metrics>,
        limits: ServerLimits,
    ) -> Self {
        Self(Arc::new(Inner {
            name,
            addrs,
            limits,
            handler,
            metrics,
            bound: OnceLock::new(),
            closed: watch::Sender::new(false),
        }))
    }

    /// Where it listens; empty before the first start.
    pub fn bound(&self) -> &[SocketAddr] {
        self.0.bound.get().map_or(&[], Vec::as_slice)
    }

    /// Listens no more, for good. Requests under way are answered.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// The actor that runs it.
    pub fn child(&self) -> ChildSpec {
        let server = self.clone();
        ChildSpec::actor(self.0.name, &Address::new(self.0.name), move || (ServerActor(server.clone()), ()))
            .kind_label("http")
            .hung_after(HUNG_AFTER)
    }

    async fn listen(&self) -> Result<Vec<TcpListener>, BindError> {
        let before = self.0.bound.get();
        let mut listeners = Vec::new();
        for addr in before.unwrap_or(&self.0.addrs) {
            match self.bind(*addr, before.is_some()).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if is_absent(&error) && addr.is_ipv6() && self.0.addrs.len() > 1 => {
                    tracing::warn!(target: "admin", server = self.0.name, %addr, %error, "no IPv6 here, not listening");
                }
                Err(source) => return Err(BindError { name: self.0.name, addr: *addr, source }),
            }
        }
        let bound = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let _ = self.0.bound.set(bound);
        Ok(listeners)
    }

    /// Binds; after a restart, waits a moment for the socket of the actor before to be gone.
    async fn bind(&self, addr: SocketAddr, again: bool) -> io::Result<TcpListener> {
        /// Limit: pause between two tries to bind a port: 5 ms; past it: the port is tried again.
        const BIND_RETRY_INTERVAL: Duration = Duration::from_millis(5);
        let mut left = if again { 200 } else { 0 };
        loop {
            match bind(addr) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 0 => left -= 1,
                result => return result,
            }
            sleep(BIND_RETRY_INTERVAL).await;
        }
    }

    async fn accept(
        self,
        listener: TcpListener,
        mut stop: watch::Receiver<bool>,
        done: oneshot::Sender<Infallible>,
    ) {
        let (mut connections, mut closed) = (JoinSet::new(), self.0.closed.subscribe());
        let limits = self.0.limits;
        let mut clients = Clients::new(limits.connections, limits.connections_each);
        let mut waiting = None;
        loop {
            if let Some((stream, client)) = waiting.take() {
                match clients.admit(client) {
                    Admission::Place(place) => {
                        connections.spawn(self.clone().watch(stream, place, stop.clone()));
                    }
                    Admission::Wait => waiting = Some((stream, client)),
                    // A client past its share is hung up on.
                    Admission::Refuse => {}
                }
            }
            // Connections that were asked to end may take a moment.
            let room = waiting.is_none() && clients.has_room() && connections.len() < limits.connections * 2;
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                () = stopped(&mut closed) => break,
                Some(_) = connections.join_next() => {}
                () = clients.changed(), if !room => {}
                accepted = listener.accept(), if room => match accepted {
                    // Since `room` was found, the idle connections may have become busy.
                    Ok((stream, peer)) => waiting = Some((stream, peer.ip().to_canonical())),
                    Err(error) => {
                        tracing::warn!(target: "admin", server = self.0.name, %error, "cannot accept");
                        // Out of descriptors, most likely: trying again at once would only spin.
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(self.0.limits.drain_within, drained).await.is_err() {
            tracing::info!(target: "admin", server = self.0.name, "closing connections that are still busy");
        }
        drop((connections, done));
    }

    /// Serves a connection. A panic ends that connection alone, and is said.
    async fn watch(self, stream: TcpStream, place: Arc<Place>, stop: watch::Receiver<bool>) {
        let serving = tripwire("http", self.clone().serve(stream, place, stop));
        if let Err(message) = watch_panics(serving).await {
            let path = format!("root/admin/{}/http", self.0.name);
            self.0.metrics.actors.task_panicked("http");
            tracing::error!(target: "supervisor", path, message, "connection task panicked");
            report_task_panic(&path, "http", &message);
        }
    }

    async fn serve(self, stream: TcpStream, place: Arc<Place>, mut stop: watch::Receiver<bool>) {
        let limits = self.0.limits;
        // The kernel cuts a client whose window stays shut. Without it the lifetime still bounds the connection.
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(limits.taken_within)) {
            tracing::debug!(target: "admin", server = self.0.name, %error, "slow readers are not cut");
        }
        let (server, here, asked) = (self.clone(), place.clone(), AtomicUsize::new(0));
        let stopping = Stopping::new(stop.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = here.busy();
            let last = asked.fetch_add(1, Ordering::Relaxed) + 1 >= limits.requests;
            let mut request = request.into_parts().0;
            request.extensions.insert(stopping.clone());
            let answering = (server.0.handler)(request);
            async move {
                let mut answer: Answer = within(limits.answer_within, answering).await;
                if last {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                drop(busy);
                Ok::<Answer, Infallible>(answer)
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_within)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
        );
        let end = tokio::select! {
            end = connection.as_mut() => end,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = place.must_leave() => {
                connection.as_mut().graceful_shutdown();
                timeout(limits.drain_within, connection).await.unwrap_or(Ok(()))
            }
            () = sleep(limits.connection_lifetime) => Ok(()),
        };
        if let Err(error) = end {
            tracing::debug!(target: "admin", server = self.0.name, %error, "connection failed");
        }
    }
}

impl std::fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpServer")
            .field("name", &self.0.name)
            .field("addrs", &self.0.addrs)
            .finish_non_exhaustive()
    }
}

/// Resolves when `stop` is true, or its sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn within(limit: Duration, answering: impl Future<Output = Answer>) -> Answer {
    let late = |_| text(StatusCode::INTERNAL_SERVER_ERROR, format!("no answer within {limit:?}\n"));
    timeout(limit, answering).await.unwrap_or_else(late)
}

/// A listener that can be bound again at once after the one before it is closed. `[::]` takes IPv4 too.
fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.bind(&addr.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Whether the machine, or this network namespace, has no such address.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

// === impl ServerActor ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::AcceptEnded(_) => "accept-ended",
        }
    }
}

impl Actor for ServerActor {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let (stop, stopped) = watch::channel(false);
        let (mut done, mut loops) = (Vec::new(), Vec::new());
        let closed = *self.0.0.closed.borrow();
        let listeners = if closed { Vec::new() } else { self.0.listen().await? };
        for listener in listeners {
            let (ending, ended) = oneshot::channel();
            done.push(ended);
            let accept = self.0.clone().accept(listener, stopped.clone(), ending);
            let myself = myself.clone();
            loops.push(OwnedTask::spawn(format!("admin/accept/{}", self.0.0.name), accept, move |exit| {
                // Refused only when the actor is gone itself.
                let _ = myself.cast(Msg::AcceptEnded(exit));
            }));
        }
        Ok(State { stop, done, _loops: loops })
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Msg::AcceptEnded(exit) = message;
        if *state.stop.borrow() || *self.0.0.closed.borrow() {
            return Ok(());
        }
        Err(format!("the accept loop of the {} server ended: {exit:?}", self.0.0.name).into())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.stop.send_replace(true);
        for ended in state.done.drain(..) {
            let _ = ended.await;
        }
        Ok(())
    }
}
