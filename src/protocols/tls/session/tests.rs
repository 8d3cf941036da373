//! Sessions that move from one of our streams to another, with rustls' own stream on the other end.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use proptest::prelude::*;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::aws_lc_rs::{cipher_suite, default_provider},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::protocols::tls::{
    aead::{Cipher, Key},
    buffer::{BUFFER_LEN, Buffers},
    handshake,
    keys::{KeySource, SecretBytes},
    stream::TlsStream,
};

type Peer = tokio_rustls::TlsStream<DuplexStream>;
type Ours = TlsStream<Shared>;
/// Makes a key by one of the libraries.
type Library = fn(Cipher, &[u8]) -> Option<Key>;

/// A connection that two streams share, as two processes share a socket. The first stream is dropped without a word.
#[derive(Clone)]
struct Shared {
    io: Arc<Mutex<DuplexStream>>,
    /// How many bytes may still be read.
    readable: Arc<Mutex<usize>>,
}

impl Shared {
    fn new(io: DuplexStream) -> Self {
        Self { io: Arc::new(Mutex::new(io)), readable: Arc::new(Mutex::new(usize::MAX)) }
    }

    fn allow(&self, bytes: usize) {
        *self.readable.lock() = bytes;
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut left = self.readable.lock();
        if *left == 0 {
            return Poll::Pending;
        }
        let mut room = vec![0; buf.remaining().min(*left)];
        let mut short = ReadBuf::new(&mut room);
        let polled = Pin::new(&mut *self.io.lock()).poll_read(cx, &mut short);
        *left -= short.filled().len();
        buf.put_slice(short.filled());
        polled
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.lock()).poll_shutdown(cx)
    }
}

/// All suites that are offered.
const SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

fn is_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

fn configs(suite: SupportedCipherSuite) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);
    let rsa = suite.suite().as_str().unwrap().contains("_RSA_");
    let algorithm = if rsa { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let cert = rcgen::CertificateParams::new(["peer".to_owned()]).unwrap().self_signed(&key).unwrap();
    let cert = CertificateDer::from(cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let versions = if is_tls13(suite) { [&TLS13] } else { [&TLS12] };
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key.into())
        .unwrap();
    (client.enable_secret_extraction, server.enable_secret_extraction) = (true, true);
    (Arc::new(client), Arc::new(server))
}

/// Our stream and rustls' own, after a handshake.
async fn shaken((client, server): (Arc<ClientConfig>, Arc<ServerConfig>), ours_dials: bool) -> (Ours, Peer) {
    let (near, far) = duplex(1 << 21);
    let (near, name) = (Shared::new(near), ServerName::try_from("peer").unwrap());
    if ours_dials {
        let acceptor = tokio_rustls::TlsAcceptor::from(server);
        let (ours, peer) =
            tokio::join!(handshake::connect(client, name, near, Buffers::default()), acceptor.accept(far));
        (ours.unwrap().0, peer.unwrap().into())
    } else {
        let connector = tokio_rustls::TlsConnector::from(client);
        let (ours, peer) =
            tokio::join!(handshake::accept(server, near, Buffers::default()), connector.connect(name, far));
        (ours.unwrap().0, peer.unwrap().into())
    }
}

/// Takes the session out of a stream and puts it into another one.
fn moved(mut stream: Ours) -> Ours {
    let session = stream.session().unwrap();
    let io = stream.io().clone();
    drop(stream);
    TlsStream::resume(io, session, Buffers::default()).unwrap()
}

fn update_keys(peer: &mut Peer) {
    let done = match peer {
        Peer::Client(stream) => stream.get_mut().1.refresh_traffic_keys(),
        Peer::Server(stream) => stream.get_mut().1.refresh_traffic_keys(),
    };
    done.unwrap();
}

async fn say(from: &mut (impl AsyncWrite + Unpin), to: &mut (impl AsyncRead + Unpin), text: &[u8]) {
    from.write_all(text).await.unwrap();
    from.flush().await.unwrap();
    hear(to, text).await;
}

async fn hear(at: &mut (impl AsyncRead + Unpin), text: &[u8]) {
    let mut got = vec![0; text.len()];
    at.read_exact(&mut got).await.unwrap();
    assert!(got == text, "other bytes");
}

#[tokio::test]
async fn a_session_of_each_suite_goes_on_in_another_stream_at_either_end() {
    for suite in SUITES {
        let configs = configs(suite);
        for ours_dials in [true, false] {
            let (mut ours, mut peer) = shaken(configs.clone(), ours_dials).await;
            // A session that has said nothing yet, and one that has been moved twice.
            for _ in 0..2 {
                ours = moved(moved(ours));
                say(&mut ours, &mut peer, &[1; 40_000]).await;
                say(&mut peer, &mut ours, &[2; 40_000]).await;
            }
            if is_tls13(suite) {
                for _ in 0..3 {
                    // The peer's update asks for one of ours.
                    update_keys(&mut peer);
                    say(&mut peer, &mut ours, b"updated").await;
                    ours = moved(ours);
                    say(&mut ours, &mut peer, b"updated, too").await;
                    ours = moved(ours);
                    ours.rekey_soon();
                    ours = moved(ours);
                    say(&mut ours, &mut peer, b"once more").await;
                }
                update_keys(&mut peer);
                say(&mut peer, &mut ours, b"after the last move").await;
            }
            let mut end = [0];
            let (closed, _) = tokio::join!(ours.shutdown(), peer.read(&mut end));
            closed.unwrap();
        }
    }
}

#[tokio::test]
async fn parts_of_records_and_bytes_that_nobody_has_read_or_written_come_along() {
    for suite in SUITES {
        let (mut ours, mut peer) = shaken(configs(suite), true).await;
        let text: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        peer.write_all(&text).await.unwrap();
        peer.flush().await.unwrap();
        // Two whole records arrive, and a part of the third one.
        ours.io().allow(40_000);
        let mut got = vec![0; 20_000];
        ours.read_exact(&mut got).await.unwrap();
        ours.write_all(&text).await.unwrap();
        let session = ours.session().unwrap();
        assert!(session.unread.len() > 10_000 && session.unread.len() < 16_384, "{session:?}");
        assert!(session.unopened.len() > 1000 && session.unsent.len() > text.len(), "{session:?}");
        ours.io().allow(usize::MAX);
        let mut ours = moved(ours);
        assert_eq!(ours.unflushed_len(), session.unsent.len());
        got.resize(text.len(), 0);
        ours.read_exact(&mut got[20_000..]).await.unwrap();
        assert!(got == text);
        ours.flush().await.unwrap();
        hear(&mut peer, &text).await;
    }
}

#[tokio::test]
async fn a_session_goes_on_with_the_keys_of_either_library() {
    let libraries: [Library; 2] = [
        Key::aws,
        #[cfg(target_arch = "x86_64")]
        Key::ring,
        #[cfg(not(target_arch = "x86_64"))]
        Key::aws,
    ];
    for suite in SUITES {
        let (mut ours, mut peer) = shaken(configs(suite), false).await;
        for library in libraries.into_iter().cycle().take(4) {
            ours = moved(ours);
            ours.remake_keys(library);
            say(&mut ours, &mut peer, &[1; 20_000]).await;
            say(&mut peer, &mut ours, &[2; 20_000]).await;
        }
    }
}

#[tokio::test]
async fn what_a_closed_session_is_about_to_lose_does_not_move() {
    let (mut ours, mut peer) = shaken(configs(SUITES[0]), true).await;
    peer.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    assert!(ours.session().is_none());
    let (mut ours, _peer) = shaken(configs(SUITES[0]), true).await;
    ours.shutdown().await.unwrap();
    assert!(ours.session().is_none());
}

#[tokio::test]
async fn a_stream_whose_session_nobody_has_taken_goes_on() {
    let (mut ours, mut peer) = shaken(configs(SUITES[1]), true).await;
    for _ in 0..3 {
        ours.write_all(b"unsent").await.unwrap();
        assert!(ours.session().is_some());
        ours.flush().await.unwrap();
        hear(&mut peer, b"unsent").await;
        say(&mut peer, &mut ours, b"back").await;
    }
}

#[tokio::test]
async fn a_session_that_fits_no_cipher_or_no_buffer_is_refused() {
    let (mut ours, _peer) = shaken(configs(SUITES[0]), true).await;
    let (session, io) = (ours.session().unwrap(), ours.io().clone());
    let refusal = |spoil: fn(&mut Session)| {
        let mut session = session.clone();
        spoil(&mut session);
        TlsStream::resume(io.clone(), session, Buffers::default()).err()
    };
    assert_eq!(refusal(|_| {}), None);
    assert_eq!(refusal(|s| s.seal.cipher = Cipher::Aes128), Some(SessionError::Keys));
    let short = |s: &mut Session| s.open.source = KeySource::Traffic(SecretBytes::new(&[1; 32]));
    assert_eq!(refusal(short), Some(SessionError::Keys));
    let mixed = |s: &mut Session| {
        s.open.source = KeySource::Fixed { key: SecretBytes::new(&[1; 32]), salt: [0; 4] };
    };
    assert_eq!(refusal(mixed), Some(SessionError::Keys));
    let long = |s: &mut Session| s.unsent = vec![0; BUFFER_LEN + 1];
    assert_eq!(refusal(long), Some(SessionError::TooLong(BUFFER_LEN + 1)));
}

#[tokio::test]
async fn debug_of_a_session_shows_neither_keys_nor_bytes() {
    let (mut ours, _peer) = shaken(configs(SUITES[0]), true).await;
    ours.write_all(b"secret text").await.unwrap();
    let session = ours.session().unwrap();
    let shown = format!("{session:?}");
    let KeySource::Traffic(secret) = &session.seal.source else { panic!("{shown}") };
    let listed = format!("{:?}", &secret.expose()[..4]);
    assert!(!shown.contains(listed.trim_matches(['[', ']'])), "{shown}");
    assert!(shown.len() < 600 && shown.contains("unsent"), "{shown}");
}

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
enum Step {
    PeerWrites(usize),
    Writes(usize),
    Flushes,
    /// So many bytes arrive, of which at most so many are read.
    Reads(usize, usize),
    PeerReads(usize),
    PeerUpdates,
    Updates,
    Moves,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![1..40usize, 1..40_000usize];
    prop_oneof![
        size().prop_map(Step::PeerWrites),
        size().prop_map(Step::Writes),
        Just(Step::Flushes),
        (size(), size()).prop_map(|(arrive, read)| Step::Reads(arrive, read)),
        size().prop_map(Step::PeerReads),
        Just(Step::PeerUpdates),
        Just(Step::Updates),
        Just(Step::Moves),
        Just(Step::Moves),
    ]
}

/// The output of a future that waits for nothing.
fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Bytes that were sent, and how many of them have arrived.
#[derive(Default)]
struct Way {
    sent: Vec<u8>,
    arrived: usize,
}

impl Way {
    fn more(&mut self, len: usize) -> Vec<u8> {
        let from = self.sent.len();
        self.sent.extend((from..from + len).map(|at| (at * 7 + at / 251) as u8));
        self.sent[from..].to_vec()
    }

    fn came(&mut self, bytes: &[u8]) {
        assert!(self.sent[self.arrived..][..bytes.len()] == *bytes, "other bytes");
        self.arrived += bytes.len();
    }
}

fn take(steps: &[Step], suite: SupportedCipherSuite, ours_dials: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut ours, mut peer) = runtime.block_on(shaken(configs(suite), ours_dials));
    let (mut there, mut back) = (Way::default(), Way::default());
    let read = |from: &mut (dyn AsyncRead + Unpin), way: &mut Way, most: usize| {
        let mut room = vec![0; most];
        let n = now(from.read(&mut room)).map_or(0, Result::unwrap);
        way.came(&room[..n]);
        n
    };
    for step in steps {
        match *step {
            Step::PeerWrites(len) => {
                now(peer.write_all(&back.more(len))).unwrap().unwrap();
                now(peer.flush()).unwrap().unwrap();
            }
            Step::Writes(len) => now(ours.write_all(&there.more(len))).unwrap().unwrap(),
            Step::Flushes => now(ours.flush()).unwrap().unwrap(),
            Step::Reads(arrive, most) => {
                ours.io().allow(arrive);
                read(&mut ours, &mut back, most);
            }
            Step::PeerReads(most) => _ = read(&mut peer, &mut there, most),
            Step::PeerUpdates if is_tls13(suite) => update_keys(&mut peer),
            Step::Updates if is_tls13(suite) => ours.rekey_soon(),
            Step::PeerUpdates | Step::Updates => {}
            Step::Moves => ours = moved(ours),
        }
    }
    now(ours.flush()).unwrap().unwrap();
    ours.io().allow(usize::MAX);
    while read(&mut ours, &mut back, 50_000) > 0 {}
    while read(&mut peer, &mut there, 50_000) > 0 {}
    assert_eq!((there.arrived, back.arrived), (there.sent.len(), back.sent.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_byte_is_lost_or_changed_however_often_a_session_moves(
        steps in proptest::collection::vec(step(), 1..40),
        suite in 0..4usize,
        ours_dials in any::<bool>(),
    ) {
        take(&steps, SUITES[suite], ours_dials);
    }
}
