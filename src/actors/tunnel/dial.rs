//! Dialling a tunnel and driving it, as a task on the shard whose streams it will carry.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, client::Connection};
use ractor::RpcReplyPort;
use socket2::Socket;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    DialError, TunnelKey,
    pool::{PodPool, Tunnel},
};
use crate::{
    actors::{
        lane::Patience,
        pods::pod::Pod,
        shard::Shard,
        sys::{pacing::Reach, socket},
        telemetry::trace::span::{Kind, Step},
    },
    protocols::{
        hbone::{
            client,
            io::{Coalesced, Flush, coalesced},
        },
        tls::{WorkloadCert, handshake, stream::TlsStream},
    },
};

/// A PING unanswered for so long makes a tunnel suspect, well before it is given up.
/// Limit: PING of a tunnel without an answer: 1 s; past it: new streams prefer other tunnels.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// Where a dial reports to, exactly once.
pub type Ready = RpcReplyPort<Result<(), Arc<DialError>>>;

/// Boxed: each future it is handed through would keep room for it.
type Http2 = Box<Connection<Coalesced<TlsStream<TcpStream>>, Bytes>>;
type Established = (Http2, Flush<TlsStream<TcpStream>>);

/// Dials `key` and, if that succeeds, drives the tunnel until it ends.
pub async fn run(shard: Shard, pod: Arc<Pod>, key: TunnelKey, (step, ready): (Step, Ready)) {
    // Never refused: a pod that ends takes its dials along, and waits for their sockets to close.
    let _member = pod.dialled.admit(shard.index(), key.to);
    let name = key.to.to_string();
    match pod.node.quarantine.enter(key.input(&name)) {
        Ok(admitted) => {
            // Boxed, as the futures around it hold it several times.
            let carrying = Box::pin(carry(&shard, &pod, &key, (step, ready)));
            // For the tunnel's life: what the peer sends later can crash its driver, too.
            if admitted.watch(carrying).await {
                admitted.done();
            }
        }
        Err(aside) => drop(ready.send(Err(Arc::new(key.refused(aside))))),
    }
}

/// Whether there was a tunnel.
async fn carry(shard: &Shard, pod: &Arc<Pod>, key: &TunnelKey, (step, ready): (Step, Ready)) -> bool {
    let pool = PodPool::of(pod, shard);
    // Boxed: a tunnel lives for long, and its handshakes do not.
    let dialled = step.within(Box::pin(establish(shard, pod, key))).await;
    step.describe(|span| _ = span.result("dial", &dialled));
    drop(step);
    let (send, (connection, flush)) = match dialled {
        Ok(established) => established,
        Err(error) => {
            tracing::debug!(target: "tunnel", to = %key.to, %error, "dial failed");
            // Whoever asked may have gone meanwhile.
            let _ = ready.send(Err(Arc::new(error)));
            return false;
        }
    };
    let _counted = (shard.count_tunnel(), pod.node.metrics.pods.tunnel());
    let tunnel = pool.peer(key).add(send, pod.node.settings.pool.max_streams);
    let patience = pool.patience();
    let _listed = Listed { pool, key: key.clone(), tunnel: tunnel.clone() };
    let _ = ready.send(Ok(()));
    let ended = drive(pod, connection, flush, &tunnel, patience).await;
    tracing::debug!(target: "tunnel", to = %key.to, ended, "tunnel ended");
    true
}

/// Takes the tunnel out of the pool when its driver ends, also by a panic.
struct Listed {
    pool: Rc<PodPool>,
    key: TunnelKey,
    tunnel: Rc<Tunnel>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.pool.peer(&self.key).remove(&self.tunnel);
        self.pool.tidy(&self.key);
    }
}

async fn establish(
    shard: &Shard,
    pod: &Pod,
    key: &TunnelKey,
) -> Result<(h2::client::SendRequest<Bytes>, Established), DialError> {
    let cert = certificate(pod, key).await?;
    let step = Step::new("tcp connect", Kind::Client);
    let connected = step.within(connect(pod, key.to, None, Reach::Network)).await;
    step.describe(|span| _ = span.result("connect", &connected));
    drop(step);
    let stream = connected?;
    let step = Step::new("tls handshake", Kind::Client);
    let secured = step.within(secure(shard, pod, key, &cert, stream)).await;
    step.describe(|span| _ = span.result("tls", &secured));
    drop(step);
    let step = Step::new("http2 handshake", Kind::Client);
    let begun = step.within(begin(pod, key, secured?)).await;
    step.describe(|span| _ = span.result("http2", &begun));
    begun
}

/// The pod's certificate, waited for if it is not there yet.
async fn certificate(pod: &Pod, key: &TunnelKey) -> Result<Arc<WorkloadCert>, DialError> {
    let certs = &pod.node.certs;
    if let Some(cert) = certs.current(&key.identity) {
        return Ok(cert);
    }
    let step = Step::new("wait for certificate", Kind::Internal);
    let held = step.within(certs.hold(&key.identity, pod.node.settings.timeouts.certificate)).await;
    step.describe(|span| _ = span.result("certificate", &held));
    held.map_err(|error| DialError::Certificate(error.to_string()))
}

async fn secure(
    shard: &Shard,
    pod: &Pod,
    key: &TunnelKey,
    cert: &WorkloadCert,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, DialError> {
    let timeouts = &pod.node.settings.timeouts;
    // The server's name is its SPIFFE id, which the verifier checks; the address is never compared nor sent.
    let name = key.to.ip().into();
    let shake =
        handshake::connect(cert.client_config(&key.sans.to_vec()), name, stream, shard.buffers.clone());
    let (stream, peer) = match timeout(timeouts.tls, shake).await {
        Ok(shaken) => shaken.map_err(|error| DialError::Tls { to: key.to, error })?,
        Err(_) => return Err(DialError::TlsTimedOut { to: key.to, after: timeouts.tls }),
    };
    if peer.alpn.as_deref() != Some(b"h2") {
        return Err(DialError::Alpn { to: key.to });
    }
    Ok(stream)
}

async fn begin(
    pod: &Pod,
    key: &TunnelKey,
    stream: TlsStream<TcpStream>,
) -> Result<(h2::client::SendRequest<Bytes>, Established), DialError> {
    let timeouts = &pod.node.settings.timeouts;
    let (io, mut flush) = coalesced(stream);
    let shake = flush.drive(client::handshake(io, &pod.node.settings.http2));
    match timeout(timeouts.http2, shake).await {
        Ok(Ok(Ok((send, connection)))) => Ok((send, (Box::new(connection), flush))),
        Ok(Ok(Err(error))) => Err(DialError::Http2 { to: key.to, error: error.to_string() }),
        Ok(Err(error)) => Err(DialError::Http2 { to: key.to, error: error.to_string() }),
        Err(_) => Err(DialError::Http2 { to: key.to, error: "timed out".into() }),
    }
}

/// Connects from inside the pod to where `reach` says `to` is, within the configured time.
///
/// # Errors
/// The namespace is gone, or nobody answers.
pub async fn connect(
    pod: &Pod,
    to: SocketAddr,
    source: Option<IpAddr>,
    reach: Reach,
) -> Result<TcpStream, DialError> {
    let settings = &pod.node.settings;
    let unpaced = pod.unpaced(reach);
    let how = socket::Connect { mark: pod.mark(), source, keepalive: settings.keepalive, unpaced };
    let made = pod.netns.enter_sticky(|| socket::connecting(to, &how)).and_then(|made| made);
    let socket = made.map_err(|error| DialError::Connect { to, error })?;
    match timeout(settings.timeouts.connect, established(socket, to)).await {
        Ok(Ok(stream)) => {
            if let Some(reach) = unpaced {
                reach.settle(&stream, settings.unpaced_rtt);
            }
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(DialError::ConnectTimedOut { to, after: settings.timeouts.connect })
        }
        Ok(Err(error)) => Err(DialError::Connect { to, error }),
        Err(_) => Err(DialError::ConnectTimedOut { to, after: settings.timeouts.connect }),
    }
}

async fn established(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    let connected = socket::connect(&socket, to)?;
    let stream = TcpStream::from_std(socket.into())?;
    if !connected {
        // It is writable once it is known how it went.
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

/// Drives an established tunnel until the peer ends it, stops answering, or nobody has used it for long.
async fn drive(
    pod: &Pod,
    mut connection: Http2,
    mut flush: Flush<TlsStream<TcpStream>>,
    tunnel: &Rc<Tunnel>,
    mut patience: Patience,
) -> &'static str {
    let pings = connection.ping_pong();
    let work = async {
        tokio::select! {
            biased;
            ended = &mut connection => if ended.is_ok() { "closed" } else { "failed" },
            () = keepalive(pod, pings, tunnel) => "no answer to a PING",
            () = unused(pod.node.settings.pool.unused_release, tunnel) => "unused",
        }
    };
    flush.drive_behind(|| patience.waits(), work).await.unwrap_or("connection broke")
}

/// Ends when the peer has not answered a PING in time. The first is sent at once: a peer that is mute in HTTP/2 is
/// found out within the time allowed for its settings.
async fn keepalive(pod: &Pod, pings: Option<PingPong>, tunnel: &Tunnel) {
    let settings = &pod.node.settings;
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut patience = settings.timeouts.http2;
    loop {
        if pings.send_ping(Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        let answered = async {
            let mut pong = std::pin::pin!(std::future::poll_fn(|cx| pings.poll_pong(cx)));
            match timeout(SUSPECT_AFTER.min(patience), &mut pong).await {
                Ok(answer) => answer.is_ok(),
                Err(_) => {
                    tunnel.suspect(true);
                    timeout(patience.saturating_sub(SUSPECT_AFTER), pong)
                        .await
                        .is_ok_and(|answer| answer.is_ok())
                }
            }
        };
        if !answered.await {
            return;
        }
        tunnel.suspect(false);
        patience = settings.pool.ping_timeout;
        sleep(settings.pool.ping_interval).await;
    }
}

/// Ends when no stream has been on the tunnel for `release`.
async fn unused(release: Duration, tunnel: &Tunnel) {
    loop {
        match tunnel.idle() {
            Some(idle) if idle >= release => return,
            Some(idle) => sleep(release.saturating_sub(idle)).await,
            None => sleep(release).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// A tunnel keeps them for as long as it lives; the first is held twice by the task around it.
    #[test]
    fn futures_of_tunnels_stay_small() {
        let sizes = [("dial", size(run), 600), ("tunnel", size(carry), 1700)];
        for (name, size, most) in sizes {
            assert!(size <= most, "the future of a {name} has {size} bytes, more than {most}");
        }
    }
}
