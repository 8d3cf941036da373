//! A gRPC server over TLS on the loopback, for tests of both clients.
#![allow(clippy::disallowed_methods, reason = "test servers live as long as their runtime")]

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server, transport::server::Connected};

use super::target::GrpcTarget;
use crate::protocols::config::{Address, RootSource};

/// A certificate authority of a test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A running server. A drop ends the server and its connections.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    accept: JoinHandle<()>,
    serve: JoinHandle<()>,
}

/// The certificate that the server presents.
pub(crate) struct Cert<'a> {
    pub(crate) names: &'a [&'a str],
    pub(crate) expired: bool,
    pub(crate) ca: bool,
    pub(crate) version: &'static SupportedProtocolVersion,
}

struct Io(TlsStream<TcpStream>);

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("test root {:x}", rand::random::<u64>()));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn config(&self, cert: &Cert<'_>) -> Arc<ServerConfig> {
        let names: Vec<String> = cert.names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        if cert.ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        if cert.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[cert.version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Serves `routes` with a valid certificate for `localhost`.
    pub(crate) async fn serve(&self, routes: Routes) -> Peer {
        serve(self.config(&Cert::of(&["localhost"])), routes).await
    }

    /// The target that reaches `peer` as `localhost` and trusts this authority.
    pub(crate) fn target(&self, peer: &Peer) -> GrpcTarget {
        target(peer, RootSource::Inline(self.pem()))
    }
}

// === impl Cert ===

impl<'a> Cert<'a> {
    pub(crate) fn of(names: &'a [&'a str]) -> Self {
        Self { names, expired: false, ca: false, version: &TLS13 }
    }

    pub(crate) fn tls12(self) -> Self {
        Self { version: &TLS12, ..self }
    }
}

// === impl Peer ===

impl Drop for Peer {
    fn drop(&mut self) {
        self.accept.abort();
        self.serve.abort();
    }
}

pub(crate) fn target(peer: &Peer, roots: RootSource) -> GrpcTarget {
    GrpcTarget::at(Address { host: "localhost".into(), port: peer.addr.port() }, roots)
}

pub(crate) async fn serve(config: Arc<ServerConfig>, routes: Routes) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tx, rx) = mpsc::channel(1);
    let accept = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(tls) = acceptor.accept(tcp).await
                && tx.send(Ok::<_, std::io::Error>(Io(tls))).await.is_err()
            {
                return;
            }
        }
    });
    let serve = tokio::spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming(ReceiverStream::new(rx)).await.unwrap();
    });
    Peer { addr, accept, serve }
}

// === impl Io ===

impl Connected for Io {
    type ConnectInfo = Option<String>;

    /// The SNI of the connection.
    fn connect_info(&self) -> Option<String> {
        self.0.get_ref().1.server_name().map(str::to_owned)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, b)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
