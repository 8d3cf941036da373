//! HBONE spoken by the test itself: as a client with any certificate, and as servers that fall silent.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Uri};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use warren::{
    lab::{
        apps::{Background, background},
        net::Namespace,
    },
    protocols::{
        ca::{chain::Chain, csr},
        config::{Http2Config, TlsConfig},
        hbone::{client, server},
        identity::Identity,
        tls::{WorkloadCert, buffer::Buffers, handshake},
    },
};

use crate::support::{LIMIT, Lab, listen};

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// 200, and the application behind it echoed.
    Echoed,
    /// Another status.
    Status(u16),
    /// No connection, no TLS, no HTTP/2, or no answer.
    Broken(String),
}

/// A request to a proxy's HBONE listener.
pub(crate) struct Ask<'a> {
    /// Where the listener is.
    pub to: SocketAddr,
    /// Who asks.
    pub cert: &'a Arc<WorkloadCert>,
    /// Who must answer.
    pub server: &'a str,
    /// `CONNECT` unless said.
    pub method: Method,
    /// What is asked for.
    pub authority: &'a str,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(
        to: SocketAddr,
        cert: &'a Arc<WorkloadCert>,
        server: &'a str,
        authority: &'a str,
    ) -> Self {
        Self { to, cert, server, method: Method::CONNECT, authority }
    }
}

/// A certificate of the mesh's authority for any identity.
pub(crate) fn certificate(lab: &mut Lab, identity: &str) -> Arc<WorkloadCert> {
    let identity: Identity = identity.parse().unwrap();
    let request = csr::request(&identity).unwrap();
    let authority = lab.services().control().unwrap().authority().clone();
    let chain = authority.sign(&request.pem, None, Duration::from_secs(3600)).unwrap();
    let chain = Chain::parse(&chain, Some(&identity)).unwrap();
    Arc::new(WorkloadCert::new(chain, &request.key, &TlsConfig::default()).unwrap())
}

/// `spiffe://cluster.local/ns/default/sa/NAME`.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

/// Asks, from inside `namespace`.
pub(crate) fn ask(namespace: &Namespace, ask: &Ask<'_>) -> Said {
    let config = ask.cert.client_config(&[ask.server.parse().unwrap()]);
    let (to, method, authority) = (ask.to, ask.method.clone(), ask.authority.to_owned());
    let asking = background(namespace, move |_| async move {
        let talk = async {
            let stream = TcpStream::connect(to).await.map_err(|error| format!("connect: {error}"))?;
            let name = ServerName::from(to.ip());
            let (stream, _) = handshake::connect(config, name, stream, Buffers::default())
                .await
                .map_err(|error| format!("tls: {error}"))?;
            let (send, connection) = client::handshake(stream, &Http2Config::default())
                .await
                .map_err(|error| format!("h2: {error}"))?;
            tokio::select! {
                said = request(send, method, &authority) => said.map_err(|error| format!("h2: {error}")),
                ended = connection => Err(format!("h2: connection ended: {ended:?}")),
            }
        };
        match tokio::time::timeout(LIMIT, talk).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => Said::Broken(error),
            Err(_) => panic!("no answer from {to} within {LIMIT:?}"),
        }
    });
    asking.unwrap().wait().unwrap()
}

async fn request(send: SendRequest<Bytes>, method: Method, authority: &str) -> Result<Said, h2::Error> {
    const MESSAGE: &[u8] = b"through a tunnel";
    let mut request = Request::new(());
    let uri = if method == Method::CONNECT { authority.to_owned() } else { format!("http://{authority}/") };
    *request.uri_mut() = uri.parse::<Uri>().unwrap();
    *request.method_mut() = method;
    let mut send = send.ready().await?;
    let (response, mut up) = send.send_request(request, false)?;
    let response = response.await?;
    if response.status() != 200 {
        return Ok(Said::Status(response.status().as_u16()));
    }
    up.send_data(Bytes::from_static(MESSAGE), false)?;
    let (mut body, mut back) = (response.into_body(), Vec::new());
    while back.len() < MESSAGE.len() {
        match body.data().await {
            Some(chunk) => back.extend_from_slice(&chunk?),
            None => return Ok(Said::Broken(format!("the stream ended after {back:?}"))),
        }
    }
    assert_eq!(back, MESSAGE);
    up.send_data(Bytes::new(), true)?;
    // Who hangs up before the other side has ended is not done.
    while let Some(chunk) = body.data().await {
        assert!(chunk?.is_empty());
    }
    Ok(Said::Echoed)
}

/// Where a server falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mute {
    /// After TCP.
    Tls,
    /// After TLS.
    Http2,
    /// After taking in requests.
    Answer,
}

/// Listens on 15008 of `namespace` as `cert` and falls silent. Counts connections.
pub(crate) fn mute(namespace: &Namespace, cert: &Arc<WorkloadCert>, mute: Mute) -> Background<usize> {
    let listener = listen(namespace, 15008);
    listener.set_nonblocking(true).unwrap();
    let config = cert.server_config();
    let serve = move |stream: TcpStream| {
        let config = config.clone();
        async move {
            if mute == Mute::Tls {
                return Some(Held::Tcp(stream));
            }
            let (stream, _) = handshake::accept(config, stream, Buffers::default()).await.ok()?;
            if mute == Mute::Http2 {
                return Some(Held::Tls(Box::new(stream)));
            }
            let mut connection = server::handshake(stream, &Http2Config::default()).await.ok()?;
            let mut requests = Vec::new();
            while let Some(Ok(request)) = connection.accept().await {
                requests.push(request);
            }
            None
        }
    };
    let app = move |mut stop: warren::lab::apps::Stop| async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let local = tokio::task::LocalSet::new();
        let (mut tasks, mut accepted) = (tokio::task::JoinSet::new(), 0);
        local
            .run_until(async {
                loop {
                    tokio::select! {
                        () = stop.stopped() => return accepted,
                        connection = listener.accept() => {
                            accepted += 1;
                            let held = serve(connection.unwrap().0);
                            tasks.spawn_local(async move {
                                let _held = held.await;
                                std::future::pending::<()>().await
                            });
                        }
                    }
                }
            })
            .await
    };
    background(namespace, app).unwrap()
}

/// A connection that nothing is said on.
#[allow(dead_code)]
enum Held {
    Tcp(TcpStream),
    Tls(Box<warren::protocols::tls::stream::TlsStream<TcpStream>>),
}
