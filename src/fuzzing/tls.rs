//! TLS: what a stranger, a peer, and the network between may do to a handshake and to records.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::{ClientConfig, client::UnbufferedClientConnection, unbuffered::ConnectionState, version::TLS12};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};

use super::{
    input::Input,
    wire::{Scripted, Tampered, in_time},
};
use crate::protocols::{
    config::TlsConfig,
    identity::Identity,
    tls::{
        ALPN_H2, WorkloadCert,
        any_server::client_of_any_server,
        buffer::Buffers,
        handshake::{self, Peer},
        stream::TlsStream,
        test_ca::TestCa,
    },
};

/// The time within which a handshake is over, or given up by whoever began it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The content type of application data.
const DATA: u8 = 23;

struct Ends {
    server: WorkloadCert,
    client: Arc<ClientConfig>,
    /// A client that speaks TLS 1.2 alone.
    old_client: Arc<ClientConfig>,
    /// The first message of such a handshake.
    hello: Vec<u8>,
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let ca = TestCa::new("root");
    let tls = TlsConfig { tls12: true, ..TlsConfig::default() };
    let of = |name: &str| Identity::new("cluster.local", "ns1", name).unwrap();
    let (server, client) = (ca.issue(&of("server")).workload(&tls), ca.issue(&of("client")).workload(&tls));
    let client = client.client_config(&[of("server")]);
    let old_client = old(&client);
    let hello = hello(client.clone());
    Ends { server, client, old_client, hello }
});

/// A client with the certificate of `like` that speaks TLS 1.2 alone and trusts any server.
fn old(like: &ClientConfig) -> Arc<ClientConfig> {
    let resolver = like.client_auth_cert_resolver.clone();
    let mut config = client_of_any_server(&TLS12).unwrap().with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// The first message of a client.
fn hello(config: Arc<ClientConfig>) -> Vec<u8> {
    let mut conn = UnbufferedClientConnection::new(config, name()).unwrap();
    let mut message = vec![0; 4096];
    let ConnectionState::EncodeTlsData(mut encode) = conn.process_tls_records(&mut []).state.unwrap() else {
        panic!("a client speaks first");
    };
    let length = encode.encode(&mut message).unwrap();
    message.truncate(length);
    message
}

fn name() -> ServerName<'static> {
    ServerName::try_from("10.0.0.1").unwrap()
}

async fn connect<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    io: Io,
) -> Result<(TlsStream<Io>, Peer), handshake::HandshakeError> {
    handshake::connect(config, name(), io, Buffers::default()).await
}

async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(
    io: Io,
) -> Result<(TlsStream<Io>, Peer), handshake::HandshakeError> {
    handshake::accept(ENDS.server.server_config(), io, Buffers::default()).await
}

/// Handshakes with a stranger, who never gets through, and of two honest ends whose bytes come in other pieces or are
/// changed on the way.
pub fn tls_handshake(data: &[u8]) {
    let mut input = Input::new(data);
    in_time(async {
        let config = if input.flip() { &ENDS.client } else { &ENDS.old_client }.clone();
        match input.below(3) {
            0 => assert!(accept(Scripted::of(&mut input, &ENDS.hello)).await.is_err()),
            1 => assert!(connect(config, Scripted::of(&mut input, &ENDS.hello)).await.is_err()),
            _ => {
                let (near, far) = duplex(1 << 16);
                let (near, far) = (Tampered::of(&mut input, near), Tampered::of(&mut input, far));
                let honest = near.is_honest() && far.is_honest();
                let both = timeout(HANDSHAKE, async { tokio::join!(connect(config, near), accept(far)) });
                let both = both.await;
                if honest {
                    let (client, server) = both.unwrap();
                    assert_eq!(client.unwrap().1.alpn.as_deref(), Some(ALPN_H2));
                    assert_eq!(server.unwrap().1.certificates.len(), 1);
                }
            }
        }
    });
}

/// Records of a peer that has the keys, and records that are changed on the way. What is read is what was written, as
/// far as it goes.
pub fn tls_records(data: &[u8]) {
    let mut input = Input::new(data);
    in_time(async {
        let config = if input.flip() { &ENDS.client } else { &ENDS.old_client }.clone();
        let (near, far) = duplex(1 << 16);
        let far = Tampered::of(&mut input, far);
        let mut odd = !far.is_honest();
        let Ok((Ok((peer, _)), Ok((ours, _)))) =
            timeout(HANDSHAKE, async { tokio::join!(connect(config, near), accept(far)) }).await
        else {
            assert!(odd, "an honest handshake fails");
            return;
        };
        let mut sent = Vec::new();
        let back = pattern(input.below(20_000));
        let speak = async {
            let mut peer = peer;
            let ended = say(&mut input, &mut peer, (&mut odd, &mut sent)).await;
            let mut heard = Vec::new();
            let read = peer.read_to_end(&mut heard).await;
            (ended, read, heard)
        };
        let ended = timeout(HANDSHAKE, async { tokio::join!(speak, listen(ours, &back)) }).await;
        let Ok(((ended, read, heard), (got, result))) = ended else {
            // A length that was changed makes both ends wait: whoever owns the connection has a deadline.
            assert!(odd, "honest ends wait for each other");
            return;
        };
        assert!(sent.starts_with(&got), "{} bytes are read that were not written so", got.len());
        if !odd {
            ended.unwrap();
            read.unwrap();
            result.unwrap();
            assert!(got == sent && heard == back, "bytes are lost");
        }
    });
}

/// Says `words` and reads to the end.
async fn listen(mut io: TlsStream<Tampered>, words: &[u8]) -> (Vec<u8>, std::io::Result<()>) {
    let (mut got, mut space) = (Vec::new(), [0; 5000]);
    let _ = io.write_all(words).await;
    let _ = io.flush().await;
    let result = loop {
        match io.read(&mut space).await {
            Ok(0) => break Ok(()),
            Ok(n) => got.extend_from_slice(&space[..n]),
            Err(error) => break Err(error),
        }
    };
    let _ = io.shutdown().await;
    (got, result)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Says what the input wants. `odd`: whether a record was no honest one; `sent`: the application data.
async fn say(
    input: &mut Input<'_>,
    peer: &mut TlsStream<DuplexStream>,
    (odd, sent): (&mut bool, &mut Vec<u8>),
) -> std::io::Result<()> {
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..2 => {
                let words = pattern(input.below(40_000));
                sent.extend_from_slice(&words);
                peer.write_all(&words).await?;
            }
            2 => peer.flush().await?,
            3 => peer.rekey_soon(),
            4 => {
                // More empty records in a row than are tolerated are the peer's fault.
                let (content, words) = (*input.pick(&[DATA, 20, 21, 22, 24, 0]), input.bytes(300));
                peer.flush().await?;
                *odd = true;
                if content == DATA {
                    sent.extend_from_slice(words);
                }
                peer.seal_record(content, words);
            }
            5 => {
                peer.flush().await?;
                *odd = true;
                for _ in 0..input.byte() {
                    peer.seal_record(DATA, &[]);
                }
            }
            6 => tokio::task::yield_now().await,
            _ => {
                // The key of the peer is not that of the receiver any more.
                peer.flush().await?;
                *odd = true;
                peer.age(input.byte().into());
            }
        }
    }
    peer.shutdown().await
}
