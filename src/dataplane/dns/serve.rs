//! The tasks that answer the queries of a pod.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use domain::base::iana::Rcode;
use rand::seq::SliceRandom;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use super::{
    context::{DnsContext, DnsState},
    sockets::Sockets,
    upstream::{self, UpstreamError},
};
use crate::{
    dataplane::{accepted::next, pod::panics},
    protocols::{
        dns::{
            answer, lookup,
            query::{Query, Refused},
        },
        labels::UNKNOWN,
        mesh::Workload,
    },
    runtime::shard::Shard,
    sys::shared_socket::{Shared, Watched},
    telemetry::dns::{DnsMetrics, DnsQueryLabels, Transport},
};

/// The length of the longest query in bytes, far above the queries that resolvers send.
/// Limit: a query for a name: 4096 bytes; past it: the datagram is cut, and so FORMERR; a TCP connection is closed.
const DNS_QUERY_BYTES: usize = 4096;
/// The length of the longest answer on a connection in bytes.
/// Limit: an answer by TCP: 65,535 bytes; past it: the answer has the records that fit and says that it is cut.
const DNS_MESSAGE_BYTES: usize = 65_535;
/// The number of a pod's queries that wait for a name server or for the control plane.
/// Limit: queries of a pod that wait for a name server or for the pod's workload: 512; past it: SERVFAIL; names of the
/// mesh are answered all the same.
const MAX_WAITING_QUERIES: usize = 512;
/// The number of connections of a pod to its DNS proxy.
/// Limit: connections of a pod to its DNS proxy: 128; past it: the connection is closed.
const MAX_DNS_CONNECTIONS: usize = 128;
/// The time after which a connection without a query is closed, or a connection whose client does not read the answer.
/// Limit: a DNS connection without a query, or whose client does not read: 5 s; past it: the connection is closed.
const DNS_IDLE_AFTER: Duration = Duration::from_secs(5);
/// The number of queries that are read before other tasks of the shard get their turn.
/// Limit: queries that are read in one turn: 8; past it: other tasks of the shard go first.
const DNS_BURST: u32 = 8;
/// The pause after a read or an accept failed, for instance because the process ran out of descriptors.
/// Limit: pause after an error of a DNS socket: 50 ms; past it: the socket is read again.
const DNS_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The state that the tasks of one pod share.
struct Server {
    ctx: Arc<DnsContext>,
    shard: Shard,
}

/// One of a pod's places that [`MAX_WAITING_QUERIES`] or [`MAX_DNS_CONNECTIONS`] bounds.
pub(super) struct Place {
    state: Arc<DnsState>,
    taken: fn(&DnsState) -> &AtomicUsize,
}

/// A query, and the length that its answer may have in bytes.
struct Request {
    query: Query,
    transport: Transport,
    limit: usize,
}

/// The result of a query's first step, which does not wait.
enum Begun {
    /// The whole answer.
    Answered(Vec<u8>),
    /// No answer yet: the pod's workload is not known, or the name servers have to be asked.
    Waits(Option<Arc<Workload>>),
}

// === impl Place ===

impl Place {
    fn take(state: &Arc<DnsState>, taken: fn(&DnsState) -> &AtomicUsize, most: usize) -> Option<Self> {
        let more = |count| (count < most).then_some(count + 1);
        taken(state).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self { state: state.clone(), taken })
    }

    pub(super) fn wait(state: &Arc<DnsState>) -> Option<Self> {
        Self::take(state, |state| &state.waiting, MAX_WAITING_QUERIES)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.taken)(&self.state).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers queries on all sockets. Ends when a socket fails, or when the pod drains and all sockets are empty.
pub(crate) async fn serve(shard: Shard, ctx: Arc<DnsContext>, sockets: Sockets) {
    let server = Rc::new(Server { ctx, shard });
    let mut tasks = JoinSet::new();
    for socket in sockets.datagrams {
        tasks.spawn_local(server.clone().datagrams(socket));
    }
    for listener in sockets.listeners {
        tasks.spawn_local(server.clone().accept(listener));
    }
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ if server.ctx.conns.is_draining() => {}
            _ => return,
        }
    }
}

// === impl Server ===

impl Server {
    async fn datagrams(self: Rc<Self>, socket: Shared<UdpSocket>) {
        let (own, socket) = match (socket.local_addr(), socket.watch().await) {
            (Ok(own), Ok(socket)) => (own, Rc::new(socket)),
            (Err(error), _) | (_, Err(error)) => return self.failed(&error),
        };
        let mut draining = self.ctx.conns.draining();
        let mut read = 0_u32;
        loop {
            let last = *draining.borrow();
            match self.read(own, &socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if last {
                        return;
                    }
                    tokio::select! {
                        ready = socket.readable() => if let Err(error) = ready {
                            return self.failed(&error);
                        },
                        _ = draining.wait_for(|draining| *draining) => {}
                    }
                    continue;
                }
                Err(error) => {
                    tracing::debug!(target: "dns", uid = &*self.ctx.pod.id.uid, %error, "cannot read a query");
                    sleep(DNS_RETRY_PAUSE).await;
                }
            }
            read = read.wrapping_add(1);
            if read.is_multiple_of(DNS_BURST) {
                yield_now().await;
            }
        }
    }

    /// Reads one query, and answers at once or spawns a task that answers. The buffer is on the stack, so an idle pod
    /// holds no buffer.
    fn read(self: &Rc<Self>, own: SocketAddr, socket: &Rc<Watched<UdpSocket>>) -> io::Result<()> {
        let mut room = [0; DNS_QUERY_BYTES];
        let (n, from) = socket.try_recv_from(&mut room)?;
        // A forged query from the socket's own address would make the proxy answer itself for ever.
        if from == own {
            return Ok(());
        }
        let query = match Query::parse(room.get(..n).unwrap_or_default()) {
            Ok(query) => query,
            Err(refused) => {
                if let Refused::Answer(answer) = refused {
                    self.send(socket, &answer, from);
                }
                return Ok(());
            }
        };
        let request = Request { limit: query.datagram(), query, transport: Transport::Udp };
        let workload = match self.begin(&request) {
            Begun::Answered(answer) => {
                self.send(socket, &answer, from);
                return Ok(());
            }
            Begun::Waits(workload) => workload,
        };
        let Some(place) = Place::wait(&self.ctx.state) else {
            self.send(socket, &self.too_many(&request, workload.as_deref()), from);
            return Ok(());
        };
        let Ok(member) = self.ctx.state.under_way.admit(self.shard.index(), ()) else { return Ok(()) };
        let (server, socket) = (self.clone(), socket.clone());
        self.spawn("dns/query", async move {
            let _place = place;
            if let Ok(answer) = member.guard(server.finish(&request, workload)).await {
                server.send(&socket, &answer, from);
            }
        });
        Ok(())
    }

    /// Spawns a task on the shard. A panic of the task ends only the task's own query or connection.
    fn spawn(&self, kind: &'static str, work: impl Future<Output = ()> + 'static) {
        let (ctx, index) = (self.ctx.clone(), self.shard.index());
        self.shard.spawn_watched(kind, work, move |message| {
            panics::report(&ctx.metrics, &ctx.pod.id, kind, index, &message);
        });
    }

    /// Sends an answer. The answer is lost if the socket has no room, and the client asks again.
    fn send(&self, socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
        if let Err(error) = socket.send_to(answer, to) {
            tracing::debug!(target: "dns", uid = &*self.ctx.pod.id.uid, %to, %error, "cannot answer");
        }
    }

    async fn accept(self: Rc<Self>, listener: Shared<TcpListener>) {
        let listener = match listener.watch().await {
            Ok(listener) => listener,
            Err(error) => return self.failed(&error),
        };
        let mut draining = self.ctx.conns.draining();
        while let Some(accepted) = next(&listener, &mut draining).await {
            match accepted {
                Ok((stream, _)) => match TcpStream::from_std(stream) {
                    Ok(stream) => self.begin_connection(stream),
                    Err(error) => self.failed(&error),
                },
                Err(error) => {
                    tracing::debug!(target: "dns", uid = &*self.ctx.pod.id.uid, %error, "cannot accept");
                    sleep(DNS_RETRY_PAUSE).await;
                }
            }
            yield_now().await;
        }
    }

    /// Spawns the task of a connection. A connection beyond [`MAX_DNS_CONNECTIONS`] is closed at once.
    fn begin_connection(self: &Rc<Self>, stream: TcpStream) {
        let place = Place::take(&self.ctx.state, |state| &state.connections, MAX_DNS_CONNECTIONS);
        let member = self.ctx.state.under_way.admit(self.shard.index(), ());
        let (Some(place), Ok(member)) = (place, member) else { return };
        let server = self.clone();
        self.spawn("dns/connection", async move {
            let _place = place;
            // An error needs no report, as the client sees the end of the connection.
            let _ = member.guard(server.connection(stream)).await;
        });
    }

    /// Answers one query after another until the client closes the connection or is idle for [`DNS_IDLE_AFTER`].
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut draining = self.ctx.conns.draining();
        loop {
            let length = tokio::select! {
                biased;
                length = timeout(DNS_IDLE_AFTER, stream.read_u16()) => usize::from(length??),
                _ = draining.wait_for(|draining| *draining) => return Ok(()),
            };
            if length > DNS_QUERY_BYTES {
                return Ok(());
            }
            let mut message = vec![0; length];
            timeout(DNS_IDLE_AFTER, stream.read_exact(&mut message)).await??;
            let Some(answer) = self.answer(&message).await else { return Ok(()) };
            let mut framed = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            timeout(DNS_IDLE_AFTER, stream.write_all(&framed)).await??;
        }
    }

    /// The answer to a query of a connection; `None` if the query must not be answered.
    async fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Refused::Answer(answer)) => return Some(answer),
            Err(Refused::Silent) => return None,
        };
        let request = Request { query, transport: Transport::Tcp, limit: DNS_MESSAGE_BYTES };
        let workload = match self.begin(&request) {
            Begun::Answered(answer) => return Some(answer),
            Begun::Waits(workload) => workload,
        };
        let Some(_place) = Place::wait(&self.ctx.state) else {
            return Some(self.too_many(&request, workload.as_deref()));
        };
        Some(self.finish(&request, workload).await)
    }

    fn begin(&self, request: &Request) -> Begun {
        let Some(workload) = self.ctx.pod.now() else { return Begun::Waits(None) };
        self.count(request, Some(&workload), DnsMetrics::requested);
        match self.known(request, &workload) {
            Some(answer) => Begun::Answered(answer),
            None => Begun::Waits(Some(workload)),
        }
    }

    async fn finish(&self, request: &Request, workload: Option<Arc<Workload>>) -> Vec<u8> {
        let workload = match workload {
            Some(workload) => workload,
            None => {
                let Ok(workload) = self.ctx.pod.wait().await else {
                    self.count(request, None, DnsMetrics::requested);
                    self.log(request, None, "unknown client", 0);
                    return answer::error(&request.query, Rcode::SERVFAIL);
                };
                self.count(request, Some(&workload), DnsMetrics::requested);
                if let Some(answer) = self.known(request, &workload) {
                    return answer;
                }
                workload
            }
        };
        self.forward(request, &workload).await
    }

    async fn forward(&self, request: &Request, workload: &Workload) -> Vec<u8> {
        self.count(request, Some(workload), DnsMetrics::forwarded);
        let started = Instant::now();
        let answered = match &self.ctx.config.dns {
            Some(dns) => upstream::forward(&self.ctx.network, &dns.resolvers, &request.query).await,
            None => Err(UpstreamError::NoServers),
        };
        let took = started.elapsed();
        self.count(request, Some(workload), |metrics, labels| metrics.took(labels, took));
        let answer = answered.map_err(|error| error.to_string()).and_then(|answer| {
            answer.relay(&request.query, request.limit).map_err(|error| error.to_string())
        });
        let result = answer.as_ref().map_or_else(String::as_str, |_| "forwarded");
        self.log(request, Some(workload), result, 0);
        answer.unwrap_or_else(|_| {
            self.count(request, Some(workload), DnsMetrics::failed);
            answer::error(&request.query, Rcode::SERVFAIL)
        })
    }

    /// The answer from the mesh; `None` if the name is not in the mesh.
    fn known(&self, request: &Request, workload: &Workload) -> Option<Vec<u8>> {
        let (family, host) = (request.query.family()?, request.query.host()?);
        let asker = self.ctx.asker(workload)?;
        let mut found = lookup::find(self.ctx.pod.mesh.tables(), &asker, &host, family)?;
        found.addresses.shuffle(&mut *self.shard.rng.borrow_mut());
        self.log(request, Some(workload), "answered", found.addresses.len());
        Some(answer::found(&request.query, &host, &found, request.limit))
    }

    /// The answer to a query for which no place is left. `workload` is the pod's, if the query was counted for it already.
    fn too_many(&self, request: &Request, workload: Option<&Workload>) -> Vec<u8> {
        if workload.is_none() {
            self.count(request, None, DnsMetrics::requested);
        }
        self.log(request, workload, "too many queries wait", 0);
        answer::error(&request.query, Rcode::SERVFAIL)
    }

    fn count(
        &self,
        request: &Request,
        workload: Option<&Workload>,
        what: impl FnOnce(&DnsMetrics, &DnsQueryLabels<'_>),
    ) {
        let (kind, transport) = (request.query.kind(), request.transport);
        let service = workload.map_or(UNKNOWN, Workload::canonical_name);
        let revision = workload.map_or(UNKNOWN, Workload::canonical_revision);
        what(&self.ctx.metrics.dns, &DnsQueryLabels { kind: &kind, transport, service, revision });
    }

    /// Logs the line of docs/spec/controlplane.md 6 for a query.
    fn log(&self, request: &Request, workload: Option<&Workload>, result: &str, endpoints: usize) {
        if tracing::enabled!(target: "dns", tracing::Level::DEBUG) {
            let info = &self.ctx.pod.id.info;
            let (query, domain) = (request.query.question.qtype(), request.query.question.qname());
            let pod = workload.map_or(info.name.as_str(), Workload::name);
            tracing::event!(
                target: "dns",
                tracing::Level::DEBUG,
                src.workload = pod,
                src.namespace = info.namespace,
                %query,
                %domain,
                result,
                endpoints,
            );
        }
    }

    fn failed(&self, error: &io::Error) {
        tracing::error!(target: "dns", uid = &*self.ctx.pod.id.uid, %error, "cannot watch a socket of the DNS proxy");
    }
}
