//! TLS connections to the control plane, each of which can be cut.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::supervisor::OwnedTask;

/// The time limit for a client's handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// The number of connections at a time, including those in their handshake.
const CONNECTIONS: usize = 1024;

/// One connection after its handshake.
pub(super) struct Cuttable {
    inner: TlsStream<TcpStream>,
    peer: SocketAddr,
    cut: Arc<Cut>,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// The switch of one connection.
#[derive(Default)]
struct Cut {
    done: AtomicBool,
    waker: AtomicWaker,
}

/// The connections of one server. A clone is cheap.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Weak<Cut>>>>);

// === impl Connections ===

impl Connections {
    /// Cuts every connection.
    pub(super) fn cut_all(&self) {
        for cut in self.0.lock().drain(..).filter_map(|cut| cut.upgrade()) {
            cut.done.store(true, Ordering::Release);
            cut.waker.wake();
        }
    }

    fn add(&self) -> Arc<Cut> {
        let cut = Arc::new(Cut::default());
        let mut all = self.0.lock();
        all.retain(|cut| cut.strong_count() > 0);
        all.push(Arc::downgrade(&cut));
        cut
    }
}

/// Accepts connections, runs their handshakes concurrently, and passes the connections on. Ends when `out` is closed.
pub(super) async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: Connections,
    out: mpsc::Sender<io::Result<Cuttable>>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut handshakes: Vec<OwnedTask> = Vec::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("the control plane cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = out.closed() => return,
        };
        let (tls, out, cut) = (tls.clone(), out.clone(), connections.add());
        handshakes.retain(|task| !task.is_finished());
        let handshake = async move {
            // Both sides send small frames, so waiting to fill packets only costs time.
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                Ok(Ok(inner)) => drop(out.send(Ok(Cuttable { inner, peer, cut, _place: place })).await),
                Ok(Err(error)) => tracing::info!(%peer, "handshake with the control plane failed: {error}"),
                Err(_) => tracing::info!(%peer, "handshake with the control plane took too long"),
            }
        };
        handshakes.push(OwnedTask::spawn("lab/control/handshake", handshake, |_| {}));
    }
}

// === impl Cut ===

impl Cut {
    /// Returns an error once the connection is cut. Before that, the cut wakes `cx`.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.waker.register(cx.waker());
        if self.done.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

// === impl Cuttable ===

impl Connected for Cuttable {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // An HTTP/2 connection always reads, so it notices the cut here.
        self.cut.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
