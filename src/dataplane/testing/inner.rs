//! The destination behind a gateway in a test: the other end of an inner tunnel.

use std::rc::Rc;

use http::Response;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{
    TestBed, identity,
    peers::{Asked, PeerStream},
    spawn,
};
use crate::protocols::{
    config::Http2Config,
    hbone::{
        nested::StreamIo,
        server,
        side::{Received, StreamSide},
    },
    tls::{
        WorkloadCert,
        buffer::Buffers,
        handshake::{self, HandshakeError},
    },
};

/// The destination's end of an inner tunnel. A drop breaks the tunnel.
pub(crate) struct InnerPeer {
    asked: mpsc::Receiver<Asked>,
    silent: Rc<Notify>,
    driver: JoinHandle<()>,
}

// === impl InnerPeer ===

impl InnerPeer {
    /// Accepts an inner tunnel over a stream of the gateway, as the pod that the fixtures build as `name`.
    pub(crate) async fn accept(bed: &TestBed, name: &str, outer: PeerStream) -> Result<Self, HandshakeError> {
        Self::accept_with(&bed.certs.of_peer(&identity(name)), outer).await
    }

    /// Accepts an inner tunnel over a stream of the gateway, with this certificate.
    pub(crate) async fn accept_with(cert: &WorkloadCert, outer: PeerStream) -> Result<Self, HandshakeError> {
        let config = cert.server_config();
        let (send, recv) = outer.into_parts();
        let io = StreamIo::new(StreamSide::new(send, Received::new(recv)));
        let (stream, _) = handshake::accept(config, io, Buffers::default()).await?;
        let (tell, asked) = mpsc::channel(10);
        let silent = Rc::new(Notify::new());
        let heard = silent.clone();
        let driver = spawn(async move {
            let mut connection = server::handshake(stream, &Http2Config::default()).await.unwrap();
            loop {
                tokio::select! {
                    accepted = connection.accept() => {
                        let Some(Ok((request, respond))) = accepted else { return };
                        tell.send(Asked::new(request, respond)).await.unwrap();
                    }
                    () = heard.notified() => return std::future::pending().await,
                }
            }
        });
        Ok(Self { asked, silent, driver })
    }

    /// The next request through the tunnel.
    pub(crate) async fn asked(&mut self) -> Asked {
        self.asked.recv().await.expect("the inner tunnel has ended")
    }

    /// Stops answering, without breaking anything.
    pub(crate) fn fall_silent(self) {
        self.silent.notify_one();
        std::mem::forget(self);
    }

    /// Waits until the proxy has ended the tunnel.
    pub(crate) async fn ended(mut self) {
        (&mut self.driver).await.unwrap();
    }
}

impl Drop for InnerPeer {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Asked ===

impl Asked {
    /// Answers 200 with the baggage of the destination.
    pub(crate) fn accept_as(self, baggage: &str) -> PeerStream {
        self.accept_with(Response::builder().header("baggage", baggage).body(()).unwrap())
    }
}
