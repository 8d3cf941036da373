mod model;

use std::cell::Cell;

use super::{tcp::TcpSide, *};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Bytes that went forth and back.
#[derive(Default)]
pub(crate) struct Counts(pub(crate) Cell<usize>, pub(crate) Cell<usize>);

impl Meter for Counts {
    fn forward(&self, n: usize) {
        self.0.set(self.0.get() + n);
    }
    fn backward(&self, n: usize) {
        self.1.set(self.1.get() + n);
    }
}

/// Both ends of a connection.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn all_bytes_pass_in_both_directions_past_every_chunk_size() {
    let ((mut client, a), (b, mut server)) = (tcp().await, tcp().await);
    let counts = Counts::default();
    let sent: Vec<u8> = (0..9_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let (up, down) = (sent.clone(), sent.clone());
    let buffers = Buffers::default();
    let (relayed, got_up, got_down) = tokio::join!(
        relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers),
        async {
            let (mut read, mut write) = server.split();
            let mut got = Vec::new();
            let (r, w) = tokio::join!(read.read_to_end(&mut got), async {
                write.write_all(&down).await?;
                write.shutdown().await
            });
            r.and(w.map(|()| 0)).unwrap();
            got
        },
        async {
            let (mut read, mut write) = client.split();
            let mut got = Vec::new();
            let (r, w) = tokio::join!(read.read_to_end(&mut got), async {
                write.write_all(&up).await?;
                write.shutdown().await
            });
            r.and(w.map(|()| 0)).unwrap();
            got
        }
    );
    relayed.unwrap();
    assert!(got_up == sent && got_down == sent, "bytes differ");
    assert_eq!((counts.0.get(), counts.1.get()), (sent.len(), sent.len()));
}

#[tokio::test]
async fn one_direction_goes_on_after_the_other_has_ended() {
    let ((mut client, a), (b, mut server)) = (tcp().await, tcp().await);
    let counts = Counts::default();
    let buffers = Buffers::default();
    let (relayed, ()) = tokio::join!(relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers), async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        got.clear();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
    });
    relayed.unwrap();
    assert_eq!((counts.0.get(), counts.1.get()), (8, 6));
}

#[tokio::test]
async fn a_reset_of_one_side_ends_both_without_a_fault() {
    let ((client, a), (b, server)) = (tcp().await, tcp().await);
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    let counts = Counts::default();
    let buffers = Buffers::default();
    let patience = std::time::Duration::from_secs(60);
    let relaying = tokio::time::timeout(patience, relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers));
    let (relayed, _server) = tokio::join!(relaying, async {
        drop(client);
        // The server stays: what it might still say has nowhere to go.
        let mut server = server;
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server
    });
    relayed.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_client_did_before_is_gone_on_with() {
    let before = [
        (ClientBytes::NotRead, "then", 4),
        (ClientBytes::Forwarded(6), "then", 10),
        (ClientBytes::Pending(Bytes::from_static(b"first ")), "first then", 10),
        // Nothing more is read of it.
        (ClientBytes::Ended(End::Finished), "", 0),
    ];
    for (said, arrives, counted) in before {
        let ((mut client, a), (b, mut server)) = (tcp().await, tcp().await);
        let (counts, buffers) = (Counts::default(), Buffers::default());
        let name = format!("{said:?}");
        let relaying = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers).after(said);
        let (relayed, ()) = tokio::join!(relaying, async {
            client.write_all(b"then").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = String::new();
            server.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, arrives, "{name}");
            drop(server);
            client.read_to_string(&mut got).await.unwrap();
        });
        relayed.unwrap();
        assert_eq!(counts.0.get(), counted, "{name}");
    }
}

#[tokio::test]
async fn a_reset_is_found_by_a_look_while_the_other_side_reads_nothing() {
    let ((client, a), (b, mut server)) = (tcp().await, tcp().await);
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let mut relay = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers);
    // More than all buffers on the way hold.
    let bytes = vec![7; 1 << 20];
    let mut stuck = 0;
    while stuck < 50 {
        let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx).is_pending()));
        assert!(polled.await);
        let waits = client.try_write(&bytes).is_err() && relay.attention() == Attention::Check;
        stuck = if waits { stuck + 1 } else { 0 };
        tokio::task::yield_now().await;
    }
    assert!(!relay.check_gone());
    client.set_zero_linger().unwrap();
    drop(client);
    while !relay.check_gone() {
        tokio::task::yield_now().await;
    }
    assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx).is_pending())).await);
    assert_eq!(relay.attention(), Attention::Deadline);
    // What was taken from the client before still arrives, if the server reads after all.
    let mut got = Vec::new();
    let (relayed, read) = tokio::join!(relay, server.read_to_end(&mut got));
    relayed.unwrap();
    assert_eq!((read.unwrap(), counts.0.get()), (got.len(), got.len()));
}

#[tokio::test]
async fn a_relay_that_is_given_up_resets_who_would_miss_bytes() {
    let ((client, a), (b, mut server)) = (tcp().await, tcp().await);
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let mut relay = relay(TcpSide::new(a), TcpSide::new(b), &counts, &buffers);
    let bytes = vec![7; 1 << 20];
    for _ in 0..200 {
        let _ = client.try_write(&bytes);
        let _ = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx).is_pending())).await;
        tokio::task::yield_now().await;
    }
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(matches!(relay.give_up(), RelayError::Undelivered));
    drop(relay);
    let end = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}
