//! A connection between an application and the proxy, over a pipe in memory.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::coop::unconstrained,
};

use crate::{
    dataplane::stream::AppStream,
    protocols::{
        relay::{End as ReadEnd, RelayError, Side, broken, tcp::poll_read_chunk},
        tls::buffer::Buffers,
    },
};

/// The number of bytes that the pipe holds in each direction.
const PIPE: usize = 256 * 1024;

/// The proxy's end of a connection.
#[derive(Debug)]
pub(crate) struct TestStream {
    io: RefCell<DuplexStream>,
    local: SocketAddr,
    original_dst: Option<SocketAddr>,
    fate: Arc<Fate>,
}

/// The application's end of a connection.
#[derive(Debug)]
pub(crate) struct TestEnd {
    io: DuplexStream,
    fate: Arc<Fate>,
}

/// [`TestStream`] as a side of a relay.
#[derive(Debug)]
pub(crate) struct TestSide(TestStream);

/// The end of a connection as the application sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The proxy sends no more.
    Finished,
    /// The proxy has reset the connection.
    Reset,
}

#[derive(Debug, Default)]
struct Fate {
    /// Whether the drop of the proxy's end resets the connection, or has reset it.
    by_proxy: AtomicBool,
    /// Whether the application has reset its end.
    by_application: AtomicBool,
}

/// A connection that was accepted on `local`. Its destination before the redirect was `original_dst`.
pub(crate) fn connection(local: SocketAddr, original_dst: Option<SocketAddr>) -> (TestEnd, TestStream) {
    let (near, far) = duplex(PIPE);
    let fate = Arc::new(Fate::default());
    let end = TestEnd { io: near, fate: fate.clone() };
    (end, TestStream { io: RefCell::new(far), local, original_dst, fate })
}

// === impl TestEnd ===

impl TestEnd {
    pub(crate) async fn say(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
    }

    /// Ends the application's sending direction.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Waits for exactly this text.
    pub(crate) async fn hears(&mut self, text: &str) {
        let mut got = vec![0; text.len()];
        self.io.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// The rest of the bytes of the connection, and the end of the connection.
    pub(crate) async fn end(&mut self) -> (String, End) {
        let mut got = Vec::new();
        self.io.read_to_end(&mut got).await.unwrap();
        let is_reset = self.fate.by_proxy.load(Ordering::Relaxed);
        (String::from_utf8(got).unwrap(), if is_reset { End::Reset } else { End::Finished })
    }

    /// Resets the connection, as the kernel does for an application that crashes.
    pub(crate) fn reset(self) {
        self.fate.by_application.store(true, Ordering::Relaxed);
    }

    /// Whether the proxy has dropped its end.
    pub(crate) async fn is_dropped(&mut self) -> bool {
        self.io.write_all(b"?").await.is_err()
    }
}

impl AsyncRead for TestEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl TestStream ===

impl AppStream for TestStream {
    type Side = TestSide;

    fn into_side(self) -> TestSide {
        TestSide(self)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn original_dst(&self, v4: bool) -> Option<SocketAddr> {
        self.original_dst.filter(|dst| dst.is_ipv4() == v4)
    }

    fn read_now(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut io = self.io.borrow_mut();
        let mut buf = ReadBuf::new(room);
        let read = std::future::poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut buf));
        match pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn reset_on_drop(&self) {
        self.fate.by_proxy.store(true, Ordering::Relaxed);
    }
}

impl Drop for TestStream {
    fn drop(&mut self) {
        // The kernel resets a connection that is closed with unread bytes.
        if self.read_now(&mut [0]).is_ok_and(|n| n > 0) {
            self.reset_on_drop();
        }
    }
}

impl AsyncRead for TestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(self.io.get_mut()).poll_read(cx, buf))?;
        if buf.filled().len() == before && self.fate.by_application.load(Ordering::Relaxed) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.io.get_mut()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }
}

// === impl TestSide ===

impl Side for TestSide {
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        buffers: &Buffers,
    ) -> Poll<Result<Bytes, ReadEnd>> {
        poll_read_chunk(&mut self.0, cx, max, buffers)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
        _: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        while !chunk.is_empty() {
            match ready!(Pin::new(&mut self.0).poll_write(cx, chunk)) {
                Ok(n) => chunk.advance(n),
                Err(error) => {
                    let fault = match broken(error) {
                        ReadEnd::Failed(fault) => Some(fault),
                        ReadEnd::Finished | ReadEnd::Gone(_) => None,
                    };
                    return Poll::Ready(Err(fault));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll_shutdown(cx).map(drop)
    }

    fn check_gone(&mut self) -> bool {
        self.0.fate.by_application.load(Ordering::Relaxed)
    }

    fn reset_on_drop(&mut self) {
        AppStream::reset_on_drop(&self.0);
    }
}
