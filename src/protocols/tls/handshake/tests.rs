//! Handshakes with peers that send what no peer should.

use std::time::Duration;

use bytes::BytesMut;
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use rcgen::CustomExtension;
use rustls::pki_types::IpAddr;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::protocols::{
    ca::chain::Chain,
    config::{Compliance, TlsConfig},
    identity::Identity,
    tls::{WorkloadCert, test_ca::TestCa},
};

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

fn name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::try_from("192.0.2.1").unwrap())
}

fn certs(tls12: bool) -> (WorkloadCert, WorkloadCert) {
    let (ca, options) = (TestCa::new("root"), TlsConfig { tls12, ..TlsConfig::default() });
    (ca.issue(&id("web")).workload(&options), ca.issue(&id("db")).workload(&options))
}

/// The error of a server whose client sends `bytes`, and of a client whose server does.
async fn errors(bytes: &[u8]) -> [HandshakeError; 2] {
    let (web, db) = certs(false);
    let to_peer = |mut near: DuplexStream| async move {
        drop(near.write_all(bytes).await);
        near.shutdown().await.unwrap();
        drop(near.read_to_end(&mut Vec::new()).await);
    };
    let (near, far) = duplex(1 << 20);
    let (served, ()) = tokio::join!(accept(db.server_config(), far, Buffers::default()), to_peer(near));
    let (near, far) = duplex(1 << 20);
    let dialling = connect(web.client_config(&[id("db")]), name(), far, Buffers::default());
    let (dialled, ()) = tokio::join!(dialling, to_peer(near));
    [served.err().unwrap(), dialled.err().unwrap()]
}

#[tokio::test]
async fn a_record_between_the_parts_of_a_message_is_an_error_at_either_end() {
    for error in errors(&[0x16, 3, 1, 0, 4, 1, 0, 0x10, 0, 0x17, 3, 3, 0, 1, 0]).await {
        assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    }
}

#[tokio::test]
async fn records_of_any_kind_in_any_order_are_an_error_at_either_end() {
    for seed in 0..400 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let bytes: Vec<u8> = (0..rng.random_range(1..6)).flat_map(|_| record(&mut rng)).collect();
        // What is no error of TLS is the end of the connection.
        for error in errors(&bytes).await {
            assert!(!matches!(error, HandshakeError::LocalEncode), "seed {seed}: {error:?}");
        }
    }
}

/// A record with a likely type and the beginning of a likely message.
fn record(rng: &mut SmallRng) -> Vec<u8> {
    let kind = [20, 21, 22, 22, 22, 23, 24, rng.random()][rng.random_range(0..8)];
    let len = [0, 1, 2, 3, 4, 5, 40, 300][rng.random_range(0..8)];
    let mut body = vec![0; len];
    rng.fill_bytes(&mut body);
    if rng.random_bool(0.8) {
        let message =
            [rng.random_range(0..25), 0, [0, 1, 16][rng.random_range(0..3)], rng.random_range(0..8)];
        body.iter_mut().zip(message).for_each(|(to, from)| *to = from);
    }
    let said = if rng.random_bool(0.9) { len } else { rng.random_range(0..20_000) };
    let mut record = vec![kind, 3, [1, 3, 4][rng.random_range(0..3)], (said >> 8) as u8, said as u8];
    record.extend(body);
    record
}

/// Hands on what `from` sends to `to`, with damage.
async fn damage(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seed: u64) {
    let (mut rng, mut from) = (SmallRng::seed_from_u64(seed), from);
    let mut bytes = BytesMut::new();
    while let Ok(Ok(1..)) = tokio::time::timeout(Duration::from_secs(1), from.read_buf(&mut bytes)).await {
        let mut piece = bytes.split().to_vec();
        for _ in 0..rng.random_range(0..3) {
            let at = rng.random_range(0..piece.len());
            match rng.random_range(0..6) {
                0 => piece[at] = rng.random(),
                1 => drop(piece.splice(at..at, record(&mut rng))),
                2 => piece.truncate(at.max(1)),
                3 => piece.extend_from_within(at..),
                4 => piece.extend(record(&mut rng)),
                // A record in front of the others.
                _ => drop(piece.splice(0..0, record(&mut rng))),
            }
        }
        if to.write_all(&piece).await.is_err() {
            break;
        }
    }
    drop(to.shutdown().await);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_handshake_is_an_error_or_goes_on_and_never_a_panic() {
    for seed in 0..300_u64 {
        let (web, db) = certs(seed % 2 == 0);
        let ((client, near), (far, server)) = (duplex(1 << 20), duplex(1 << 20));
        let ((near_in, near_out), (far_in, far_out)) = (tokio::io::split(near), tokio::io::split(far));
        let ends = async {
            let dial = async {
                let dialled =
                    connect(web.client_config(&[id("db")]), name(), client, Buffers::default()).await;
                use_stream(dialled).await;
            };
            let serve =
                async { use_stream(accept(db.server_config(), server, Buffers::default()).await).await };
            tokio::join!(dial, serve);
        };
        tokio::join!(ends, damage(near_in, far_out, seed), damage(far_in, near_out, seed + 1000));
    }
}

/// Sends and reads on an established connection, until the first error.
async fn use_stream(shaken: Result<(TlsStream<DuplexStream>, Peer), HandshakeError>) {
    let Ok((mut stream, _)) = shaken else { return };
    for _ in 0..4 {
        if stream.write_all(b"something").await.is_err() || stream.flush().await.is_err() {
            return;
        }
        let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
        if !matches!(read, Ok(Ok(1..))) {
            return;
        }
    }
}

#[tokio::test]
async fn a_handshake_takes_no_more_than_32_kib_from_a_stranger() {
    // One message of nearly 64 KiB in records of 1 KiB.
    let mut flood = vec![];
    for n in 0..60 {
        flood.extend([0x16, 3, 1, 4, 0]);
        let head: &[u8] = if n == 0 { &[1, 0, 0xff, 0] } else { &[0; 4] };
        flood.extend(head);
        flood.extend([0; 1020]);
    }
    let (_, db) = certs(false);
    let (mut near, far) = duplex(1 << 20);
    near.write_all(&flood).await.unwrap();
    let mut far = Counted { io: far, read: 0 };
    let refused = accept(db.server_config(), &mut far, Buffers::default()).await.err().unwrap();
    assert!(matches!(refused, HandshakeError::PeerFlood), "{refused:?}");
    assert_eq!(far.read, MAX_HANDSHAKE_BYTES);
}

/// Counts the bytes that are read.
struct Counted {
    io: DuplexStream,
    read: usize,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read += buf.filled().len() - before;
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn six_large_certificates_and_a_post_quantum_key_share_fit() {
    let mut ca = TestCa::new("root");
    for n in 0..5 {
        ca = ca.with_intermediate(&format!("intermediate {n}"));
    }
    let options = TlsConfig { compliance: Some(Compliance::Pqc), ..TlsConfig::default() };
    let cert = |who: &Identity| {
        // As large as a certificate of RSA-4096 with many names.
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(who.as_str().try_into().unwrap())];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], vec![7; 14_000])];
        let issued = ca.issue_params(params);
        let chain = Chain::parse(&issued.chain_pems(), None).unwrap();
        WorkloadCert::new(chain, &issued.key, &options).unwrap()
    };
    let (web, db) = (cert(&id("web")), cert(&id("db")));
    let (near, far) = duplex(1 << 20);
    let (client, server) = tokio::join!(
        connect(web.client_config(&[id("db")]), name(), near, Buffers::default()),
        accept(db.server_config(), far, Buffers::default())
    );
    assert_eq!((client.unwrap().1.certificates.len(), server.unwrap().1.certificates.len()), (6, 6));
}
