//! Relays over the streams of real tunnels: bytes, ends, and what one stream may do to another.

#![allow(clippy::disallowed_methods, reason = "tests own their tasks by the LocalSet they run in")]

use std::{
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
    time::timeout,
};

use super::{
    budget::BufferBudget,
    client::{self, ConnectRequest, Opener},
    frames::Role,
    headers::TraceParent,
    io::coalesced_within,
    server,
    side::{Received, StreamSide},
    windows::Windows,
};
use crate::protocols::{
    config::Http2Config,
    relay::{Attention, Meter, RelayError, relay, tcp::TcpSide, tests::tcp},
    tls::buffer::Buffers,
};

/// Far beyond what any of this takes.
const STUCK_AFTER: Duration = Duration::from_secs(60);

struct Uncounted;

impl Meter for Uncounted {
    fn forward(&self, _: usize) {}
    fn backward(&self, _: usize) {}
}

type Accepted = (Request<RecvStream>, SendResponse<Bytes>, Windows);
type Relayed = JoinHandle<Result<(), RelayError>>;

fn windows(settings: &Http2Config) -> Windows {
    Windows::new(BufferBudget::new(64 << 20, 1).of(0), settings, Instant::now)
}

async fn opener(io: DuplexStream, settings: &Http2Config) -> Opener {
    let windows = windows(settings);
    let (io, mut flush) = coalesced_within(io, Role::Client, &windows);
    let shake = client::handshake_within(io, settings, 100, Some(&windows));
    let (send, mut connection) = flush.drive(Instant::now, shake).await.unwrap().unwrap();
    let opener = Opener::new(send, windows.clone());
    spawn_local(async move {
        let work = async {
            loop {
                tokio::select! {
                    ended = &mut connection => return ended,
                    window = windows.changed() => connection.set_target_window_size(window),
                }
            }
        };
        flush.drive(Instant::now, work).await
    });
    opener
}

async fn acceptor(io: DuplexStream, settings: Http2Config) -> mpsc::Receiver<Accepted> {
    let (tell, accepted) = mpsc::channel(200);
    spawn_local(async move {
        let windows = windows(&settings);
        let (io, mut flush) = coalesced_within(io, Role::Server, &windows);
        let shake = server::handshake_within(io, &settings, Some(&windows));
        let mut connection = flush.drive(Instant::now, shake).await.unwrap().unwrap();
        let work = async {
            loop {
                tokio::select! {
                    stream = connection.accept() => {
                        let Some(Ok((request, respond))) = stream else { return };
                        tell.send((request, respond, windows.clone())).await.unwrap();
                    }
                    window = windows.changed() => connection.set_target_window_size(window),
                }
            }
        };
        let _ = flush.drive(Instant::now, work).await;
    });
    accepted
}

/// A tunnel with small windows through a narrow pipe.
async fn tunnel() -> (Opener, mpsc::Receiver<Accepted>) {
    let settings =
        Http2Config { stream_window: 100_000, connection_window: 100_000, ..Http2Config::default() };
    let (near, far) = duplex(50_000);
    let accepted = acceptor(far, settings).await;
    (opener(near, &settings).await, accepted)
}

async fn open(send: &Opener) -> StreamSide {
    let addr: SocketAddr = "10.0.0.1:80".parse().unwrap();
    let request = ConnectRequest {
        authority: addr.to_string().parse().unwrap(),
        baggage: None,
        forwarded: None,
        trace: TraceParent { trace_id: 1, span_id: 1, sampled: false },
        network: None,
    };
    client::connect(send.clone(), request, Bytes::new()).await.unwrap().0
}

fn relayed(side: StreamSide, tcp: TcpStream) -> Relayed {
    spawn_local(async move { relay(side, TcpSide::new(tcp), &Uncounted, &Buffers::default()).await })
}

async fn accept(accepted: &mut mpsc::Receiver<Accepted>) -> StreamSide {
    let (request, mut respond, windows) = accepted.recv().await.unwrap();
    let received = Received::within(request.into_body(), &windows);
    StreamSide::new(server::accept(&mut respond, None).unwrap(), received)
}

/// A connection through the tunnel: both applications, and the relays between them.
async fn connection(
    send: &Opener,
    accepted: &mut mpsc::Receiver<Accepted>,
) -> (TcpStream, TcpStream, Relayed, Relayed) {
    let ((client, a), (b, server)) = (tcp().await, tcp().await);
    let (near, far) = tokio::join!(open(send), accept(accepted));
    (client, server, relayed(near, a), relayed(far, b))
}

async fn send_randomly(mut io: impl tokio::io::AsyncWrite + Unpin, bytes: &[u8], seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = [1, 30, 5_000, 16_384, 70_000, 300_000][rng.random_range(0..6)].min(rest.len());
        io.write_all(&rest[..n]).await.unwrap();
        rest = &rest[n..];
        if rng.random_bool(0.2) {
            tokio::task::yield_now().await;
        }
    }
    io.shutdown().await.unwrap();
}

async fn receive(mut io: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut got = Vec::new();
    io.read_to_end(&mut got).await.unwrap();
    got
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i * 31 + i / 253 + seed) as u8).collect()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(timeout(STUCK_AFTER, work)).await.expect("stuck")
}

#[tokio::test]
async fn all_bytes_pass_in_random_pieces_whichever_side_ends_first() {
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        for seed in 0..12u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut len = || [0, 1, 20_000, 700_000, 2_000_000][rng.random_range(0..5)];
            let (up, down) = (pattern(len(), seed), pattern(len(), seed + 1));
            let (mut client, mut server, near, far) = connection(&send, &mut accepted).await;
            let ((client_in, client_out), (server_in, server_out)) = (client.split(), server.split());
            let (got_up, got_down, (), ()) = tokio::join!(
                receive(server_in),
                receive(client_in),
                send_randomly(client_out, &up, seed),
                send_randomly(server_out, &down, seed + 7)
            );
            assert!(got_up == up && got_down == down, "bytes differ, seed {seed}");
            near.await.unwrap().unwrap();
            far.await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_by_either_application_ends_both_relays_and_reaches_the_other() {
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        for seed in 0..40u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (client, server, near, far) = connection(&send, &mut accepted).await;
            let (breaking, mut other) =
                if rng.random_bool(0.5) { (client, server) } else { (server, client) };
            // Some bytes under way in both directions, some of them unread.
            let n = rng.random_range(0..200_000);
            let _ = (breaking.try_write(&pattern(n, seed)), other.try_write(&pattern(n / 2, seed)));
            socket2::SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
            drop(breaking);
            // The other end is told, without having said anything itself.
            let mut sink = vec![0; 10_000];
            while let Ok(1..) = other.read(&mut sink).await {}
            assert!(near.await.unwrap().is_ok() && far.await.unwrap().is_ok(), "seed {seed}");
        }
    })
    .await;
}

#[tokio::test]
async fn stalled_readers_do_not_stop_the_other_streams_of_their_tunnel() {
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let (client, server, near, far) = connection(&send, &mut accepted).await;
            let (read, mut write) = client.into_split();
            // Far more than all buffers on the way hold; nobody reads.
            spawn_local(async move { write.write_all(&vec![1; 20_000_000]).await });
            stalled.push((server, read, near, far));
        }
        let mut others = Vec::new();
        for seed in 0..50u64 {
            let (mut client, mut server, ..) = connection(&send, &mut accepted).await;
            others.push(spawn_local(async move {
                let bytes = pattern(400_000, seed);
                let (_, out) = client.split();
                let (got, ()) = tokio::join!(receive(&mut server), send_randomly(out, &bytes, seed));
                assert!(got == bytes, "bytes differ, stream {seed}");
            }));
        }
        for other in others {
            other.await.unwrap();
        }
        assert!(stalled.iter().all(|(_, _, near, far)| !near.is_finished() && !far.is_finished()));
    })
    .await;
}

#[tokio::test]
async fn idle_streams_hold_nothing_of_the_window_their_peer_allows() {
    in_time(async {
        let (near, far) = duplex(50_000);
        // A peer whose connection window four first chunks would use up.
        spawn_local(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        send.send_data(data, false).unwrap();
                    }
                });
            }
        });
        let send = opener(near, &Http2Config::default()).await;
        let mut conns = Vec::new();
        for _ in 0..12 {
            let (mut client, a) = tcp().await;
            let relay = relayed(open(&send).await, a);
            client.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            client.read_exact(&mut got).await.unwrap();
            conns.push((client, relay));
        }
        for (client, _) in &mut conns {
            client.write_all(b"again").await.unwrap();
            let mut got = [0; 5];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"again");
        }
    })
    .await;
}

#[tokio::test]
async fn a_half_closed_connection_ends_with_its_tunnel() {
    in_time(async {
        // Whichever side has its turn first.
        half_closed(|stream, tcp| {
            spawn_local(
                async move { relay(stream, TcpSide::new(tcp), &Uncounted, &Buffers::default()).await },
            )
        })
        .await;
        half_closed(|stream, tcp| {
            spawn_local(
                async move { relay(TcpSide::new(tcp), stream, &Uncounted, &Buffers::default()).await },
            )
        })
        .await;
    })
    .await;
}

async fn half_closed(relay: impl FnOnce(StreamSide, TcpStream) -> Relayed) {
    let (near, far) = duplex(50_000);
    let (halved, is_halved) = tokio::sync::oneshot::channel::<()>();
    let serving = spawn_local(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"all"), true).unwrap();
        tokio::select! {
            _ = connection.accept() => {}
            _ = is_halved => {}
        }
    });
    let send = opener(near, &Http2Config::default()).await;
    let (mut client, a) = tcp().await;
    let relay = relay(open(&send).await, a);
    // The client has been told of the end and keeps its own half, silently.
    assert_eq!(receive(&mut client).await, b"all");
    assert!(!relay.is_finished());
    halved.send(()).unwrap();
    serving.await.unwrap();
    // However it is called: the relay does not outlive its tunnel.
    let _ = relay.await.unwrap();
}

#[tokio::test]
async fn last_bytes_carry_the_end_of_their_stream() {
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        let (mut client, a) = tcp().await;
        let (near, (mut body, _send)) = tokio::join!(
            async {
                // Both are there before the relay reads.
                client.write_all(b"all").await.unwrap();
                client.shutdown().await.unwrap();
                open(&send).await
            },
            async {
                let (request, mut respond, _) = accepted.recv().await.unwrap();
                (request.into_body(), server::accept(&mut respond, None).unwrap())
            }
        );
        let _relay = relayed(near, a);
        assert_eq!(body.data().await.unwrap().unwrap(), "all");
        assert!(body.is_end_stream(), "the end came in a frame of its own");
    })
    .await;
}

#[tokio::test]
async fn many_small_writes_wait_together_and_arrive_and_the_tunnel_goes_on() {
    const WRITES: usize = 60_000;
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        let (server, b) = tcp().await;
        socket2::SockRef::from(&b).set_send_buffer_size(4096).unwrap();
        let (request, response) =
            (Request::builder().method("CONNECT").uri("10.0.0.1:80"), accept(&mut accepted));
        let mut opening = send.clone().ready().await.unwrap();
        let (response_of, mut stream) = opening.send_request(request.body(()).unwrap(), false).unwrap();
        let (far, answered) = tokio::join!(response, response_of);
        let (far, _answer) = (relayed(far, b), answered.unwrap());
        // Nobody reads yet: one frame for each byte.
        let bytes = pattern(WRITES, 3);
        for byte in &bytes {
            stream.send_data(Bytes::copy_from_slice(&[*byte]), false).unwrap();
            if *byte == 0 {
                tokio::task::yield_now().await;
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(receive(server).await == bytes, "bytes differ");
        far.await.unwrap().unwrap();
        open_and_echo(&send, &mut accepted).await;
    })
    .await;
}

/// Opens another connection and has a message pass through it.
async fn open_and_echo(send: &Opener, accepted: &mut mpsc::Receiver<Accepted>) {
    let (mut client, mut server, ..) = connection(send, accepted).await;
    client.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test]
async fn a_reset_is_seen_while_bytes_wait_for_an_application_that_reads_nothing() {
    in_time(async {
        let (send, mut accepted) = tunnel().await;
        let (_server, b) = tcp().await;
        let (near, far) = tokio::join!(open(&send), accept(&mut accepted));
        let (mut client, a) = tcp().await;
        let near = relayed(near, a);
        let buffers = Buffers::default();
        let mut far = relay(far, TcpSide::new(b), &Uncounted, &buffers);
        // More than all buffers on the way hold.
        let flooding = spawn_local(async move {
            let _ = client.write_all(&vec![1; 30_000_000]).await;
        });
        let mut wait_for = async |wanted: Attention| {
            loop {
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(Pin::new(&mut far).poll(cx)));
                assert!(polled.await.is_pending(), "ended by itself");
                if far.attention() == wanted {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        wait_for(Attention::Check).await;
        // The client's proxy cuts the connection.
        near.abort();
        flooding.abort();
        wait_for(Attention::Deadline).await;
    })
    .await;
}
