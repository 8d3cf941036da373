//! Our byte stream against rustls' own on the other end, and against itself.

use std::sync::Arc;

use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

use crate::protocols::tls::{
    buffer::Buffers,
    handshake::{self, HandshakeError},
    stream::TlsStream,
};

fn configs(version: &'static rustls::SupportedProtocolVersion) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let cert = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    client.alpn_protocols = vec![b"h2".to_vec()];
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key.into())
        .unwrap();
    server.enable_secret_extraction = true;
    server.alpn_protocols = vec![b"h2".to_vec()];
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer").unwrap()
}

/// Sends `total` random bytes in random pieces and returns them.
async fn send(mut io: impl AsyncWrite + Unpin, total: usize, seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut all = vec![0; total];
    rng.fill_bytes(&mut all);
    let mut rest = &all[..];
    while !rest.is_empty() {
        let n = [1, 9, 300, 16_384, 16_385, 100_000, 700_000][rng.random_range(0..7)].min(rest.len());
        let written = io.write(&rest[..n]).await.unwrap();
        rest = &rest[written..];
        if rng.random_bool(0.3) {
            io.flush().await.unwrap();
        }
    }
    io.flush().await.unwrap();
    io.shutdown().await.unwrap();
    all
}

/// Receives until the end, through reads of random sizes.
async fn receive(mut io: impl AsyncRead + Unpin, seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut all = Vec::new();
    let mut buf = vec![0; 400_000];
    loop {
        let room = [1, 9, 1000, 16_384, 17_000, 400_000][rng.random_range(0..6)];
        match io.read(&mut buf[..room]).await.unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

async fn both_ways(
    a: impl AsyncRead + AsyncWrite + Unpin,
    b: impl AsyncRead + AsyncWrite + Unpin,
    seed: u64,
) {
    let (a_read, a_write) = tokio::io::split(a);
    let (b_read, b_write) = tokio::io::split(b);
    let total = 3_000_000;
    let (a_sent, b_sent, a_got, b_got) = tokio::join!(
        send(a_write, total, seed),
        send(b_write, total, seed + 1),
        receive(a_read, seed + 2),
        receive(b_read, seed + 3)
    );
    assert!(a_sent == b_got, "bytes from a to b differ, seed {seed}");
    assert!(b_sent == a_got, "bytes from b to a differ, seed {seed}");
}

fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(60_000)
}

async fn ours(
    version: &'static rustls::SupportedProtocolVersion,
) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>, Buffers) {
    let (client, server) = configs(version);
    let (near, far) = pipe();
    let buffers = Buffers::default();
    let (a, b) = tokio::join!(
        handshake::connect(client, name(), near, buffers.clone()),
        handshake::accept(server, far, buffers.clone())
    );
    (a.unwrap().0, b.unwrap().0, buffers)
}

#[tokio::test]
async fn bytes_survive_between_our_client_and_a_rustls_server() {
    for version in [&TLS13, &TLS12] {
        let (client, server) = configs(version);
        let (near, far) = pipe();
        let acceptor = tokio_rustls::TlsAcceptor::from(server);
        let (a, b) =
            tokio::join!(handshake::connect(client, name(), near, Buffers::default()), acceptor.accept(far));
        let (a, peer) = a.unwrap();
        assert_eq!((peer.certificates.len(), peer.alpn.as_deref()), (1, Some(&b"h2"[..])));
        both_ways(a, b.unwrap(), 11).await;
    }
}

#[tokio::test]
async fn bytes_survive_between_a_rustls_client_and_our_server() {
    for version in [&TLS13, &TLS12] {
        let (client, server) = configs(version);
        let (near, far) = pipe();
        let connector = tokio_rustls::TlsConnector::from(client);
        let (a, b) =
            tokio::join!(connector.connect(name(), near), handshake::accept(server, far, Buffers::default()));
        both_ways(a.unwrap(), b.unwrap().0, 21).await;
    }
}

#[tokio::test]
async fn bytes_survive_between_ourselves() {
    let (a, b, _) = ours(&TLS13).await;
    both_ways(a, b, 31).await;
}

#[tokio::test]
async fn data_sent_together_with_the_end_of_the_handshake_is_not_lost() {
    let (client, server) = configs(&TLS13);
    let (near, far) = pipe();
    let client = async {
        let mut client = tokio_rustls::TlsConnector::from(client).connect(name(), near).await.unwrap();
        client.write_all(b"first").await.unwrap();
        client.flush().await.unwrap();
        client
    };
    let (mut client, accepted) = tokio::join!(client, async {
        // Let the client run ahead: its last flight and its data lie in the pipe together.
        tokio::task::yield_now().await;
        handshake::accept(server, far, Buffers::default()).await
    });
    let mut server = accepted.unwrap().0;
    let mut got = [0; 5];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"first");
    server.write_all(b"back").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut got[..4]).await.unwrap();
    assert_eq!(&got[..4], b"back");
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let (mut a, mut b, buffers) = ours(&TLS13).await;
    a.write_all(&[5; 200_000]).await.unwrap();
    let (flushed, read) = tokio::join!(a.flush(), async {
        let mut got = vec![0; 200_000];
        b.read_exact(&mut got).await.map(|_| ())
    });
    flushed.unwrap();
    read.unwrap();
    assert_eq!(a.unflushed_len(), 0);
    // A read that finds nothing gives the buffer back; two streams used at most four.
    let mut one = [0; 1];
    assert!(tokio::time::timeout(std::time::Duration::ZERO, b.read(&mut one)).await.is_err());
    assert!((1..=4).contains(&buffers.shelved()), "{}", buffers.shelved());
}

#[tokio::test]
async fn a_truncated_connection_is_an_error_and_a_closed_one_is_not() {
    let (a, mut b, _) = ours(&TLS13).await;
    drop(a);
    let cut = b.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);

    let (mut a, mut b, _) = ours(&TLS13).await;
    a.shutdown().await.unwrap();
    assert_eq!(b.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_refused_peer_learns_why() {
    let (client, _) = configs(&TLS13);
    let (_, server) = configs(&TLS13);
    let (near, far) = pipe();
    let (a, b) = tokio::join!(
        async { handshake::connect(client, name(), near, Buffers::default()).await.map(|_| ()) },
        async { handshake::accept(server, far, Buffers::default()).await.map(|_| ()) }
    );
    assert!(matches!(a, Err(HandshakeError::Tls(rustls::Error::InvalidCertificate(_)))), "{a:?}");
    assert!(matches!(b, Err(HandshakeError::Tls(rustls::Error::AlertReceived(_)))), "{b:?}");
}

#[tokio::test]
async fn a_peer_that_closes_or_floods_during_the_handshake_is_dropped() {
    let (_, server) = configs(&TLS13);
    let (near, far) = pipe();
    drop(near);
    let closed = handshake::accept(server.clone(), far, Buffers::default()).await.map(|_| ());
    assert!(matches!(closed, Err(HandshakeError::PeerClosed)), "{closed:?}");

    let (mut near, far) = pipe();
    let (accepted, _) = tokio::join!(handshake::accept(server, far, Buffers::default()), async {
        near.write_all(b"GET / HTTP/1.1\r\nHost: plaintext\r\n\r\n").await
    });
    assert!(matches!(accepted.map(|_| ()), Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn a_key_is_replaced_while_the_buffer_is_full() {
    let (mut a, mut b, _) = ours(&TLS13).await;
    let piece = vec![7; 100_000];
    let mut sent = 0;
    // Nobody reads: the pipe and then the buffer fill up to the last byte.
    loop {
        let written = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut a).poll_write(cx, &piece) {
                std::task::Poll::Ready(written) => Some(written.unwrap()),
                std::task::Poll::Pending => None,
            })
        });
        match written.await {
            Some(n) => sent += n,
            None => break,
        }
    }
    a.rekey_soon();
    let (got, ()) = tokio::join!(
        async {
            let mut got = Vec::new();
            b.read_to_end(&mut got).await.unwrap();
            got
        },
        async {
            a.write_all(&piece).await.unwrap();
            a.shutdown().await.unwrap();
        }
    );
    assert_eq!(got, vec![7; sent + piece.len()]);
}

#[tokio::test]
async fn a_flood_of_empty_records_ends_the_connection() {
    let (mut a, mut b, _) = ours(&TLS13).await;
    for _ in 0..60 {
        a.seal_record(23, &[]);
    }
    a.write_all(b"some are fine").await.unwrap();
    for _ in 0..65 {
        a.seal_record(23, &[]);
    }
    a.flush().await.unwrap();
    drop(a);
    let mut got = [0; 13];
    b.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"some are fine");
    assert_eq!(b.read(&mut got).await.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_key_of_tls12_is_worn_after_half_of_its_records_and_seals_none_past_the_last() {
    let (mut a, mut b, _) = ours(&TLS12).await;
    for stream in [&mut a, &mut b] {
        stream.age((1 << 23) - 1);
        assert!(!stream.is_worn());
    }
    a.write_all(b"x").await.unwrap();
    a.flush().await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
    // The receiver moves on as well as the sender.
    assert!(a.is_worn() && b.is_worn());
    for stream in [&mut a, &mut b] {
        stream.age((1 << 24) - 1);
    }
    a.write_all(b"y").await.unwrap();
    a.flush().await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
    let refused = a.write_all(b"z").await.unwrap_err();
    assert_eq!(refused.to_string(), "the key of this connection is used up");
    // The keys of TLS 1.3 are replaced instead.
    let (mut a, mut b, _) = ours(&TLS13).await;
    for stream in [&mut a, &mut b] {
        stream.age(1 << 24);
        assert!(!stream.is_worn());
    }
    a.write_all(b"x").await.unwrap();
    a.flush().await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
}
