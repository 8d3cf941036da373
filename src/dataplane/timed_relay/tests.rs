use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::*;
use crate::{
    dataplane::{
        stream::AppStream,
        testing::stream::{TestEnd, connection},
    },
    protocols::{
        relay::{
            relay,
            tests::{Counts, tcp},
        },
        tls::buffer::Buffers,
    },
    sys::socket::AppSide,
};

/// Far longer than any wait of a relay, on a paused clock.
const STUCK_AFTER: Duration = Duration::from_secs(3600);

/// A client that has been reset after it has sent more than the server's pipe holds, and the server.
async fn aborted(
    counts: &Counts,
    buffers: &Buffers,
    then: impl AsyncFnOnce(TestEnd),
) -> Result<(), RelayError> {
    let local = "10.0.0.1:80".parse().unwrap();
    let ((mut client, a), (server, b)) = (connection(local, None), connection(local, None));
    let relaying = timed(relay(a.into_side(), b.into_side(), counts, buffers));
    let abort = async {
        let _ = timeout(Duration::from_secs(1), client.write_all(&vec![1; 4 << 20])).await;
        client.reset();
        then(server).await;
    };
    timeout(STUCK_AFTER, async { tokio::join!(relaying, abort).0 }).await.expect("stuck")
}

#[tokio::test(start_paused = true)]
async fn an_aborted_upload_to_a_server_that_reads_nothing_ends_and_resets_the_server() {
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let relayed = aborted(&counts, &buffers, async |mut server| {
        sleep(Duration::from_secs(60)).await;
        let mut got = Vec::new();
        let _ = server.read_to_end(&mut got).await;
        assert!(server.is_dropped().await);
    });
    assert!(matches!(relayed.await, Err(RelayError::Undelivered)));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_upload_arrives_as_long_as_the_server_makes_progress() {
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let relayed = aborted(&counts, &buffers, async |mut server| {
        let mut room = vec![0; 16 * 1024];
        while server.read(&mut room).await.is_ok_and(|n| n > 0) {
            sleep(STALLED_FOR / 2).await;
        }
    });
    relayed.await.unwrap();
    assert!(counts.0.get() > 256 * 1024, "{}", counts.0.get());
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_an_aborted_upload_has_a_bounded_time_even_with_progress() {
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let relayed = aborted(&counts, &buffers, async |mut server| {
        let trickle = async {
            while server.read(&mut [0; 8]).await.is_ok_and(|n| n > 0) {
                sleep(STALLED_FOR / 2).await;
            }
        };
        let _ = timeout(GONE_FOR * 2, trickle).await;
    });
    assert!(matches!(relayed.await, Err(RelayError::Undelivered)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_finished_waits_for_a_slow_server_without_a_bound() {
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let local = "10.0.0.1:80".parse().unwrap();
    let ((mut client, a), (mut server, b)) = (connection(local, None), connection(local, None));
    let relaying = timed(relay(a.into_side(), b.into_side(), &counts, &buffers));
    let talk = async {
        client.write_all(&vec![1; 500_000]).await.unwrap();
        client.finish().await;
        sleep(GONE_FOR * 3).await;
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 500_000);
        server.say("thanks").await;
        drop(server);
        client.hears("thanks").await;
    };
    tokio::join!(relaying, talk).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_sides_of_a_connection_that_is_half_closed_for_long_are_kept() {
    let (counts, buffers) = (Counts::default(), Buffers::default());
    let ((mut client, a), (b, mut server)) = (tcp().await, tcp().await);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(180));
    for stream in [&a, &b] {
        SockRef::from(stream).set_tcp_keepalive(&keepalive).unwrap();
    }
    let mut relaying = timed(relay(a.into_side(), b.into_side(), &counts, &buffers));
    let waits = |relay: &TimedRelay<'_, AppSide, AppSide, Counts>| {
        let (a, b) = relay.sides();
        [a, b].map(|side| SockRef::from(side.plain().unwrap()).tcp_keepalive_time().unwrap().as_secs())
    };
    client.write_all(b"question").await.unwrap();
    assert!(timeout(CHECK_INTERVAL * 3, &mut relaying).await.is_err());
    assert_eq!(waits(&relaying), [180, 180]);
    client.shutdown().await.unwrap();
    assert!(timeout(CHECK_INTERVAL * 3, &mut relaying).await.is_err());
    assert_eq!(waits(&relaying), [20, 20]);
    let talk = async {
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    };
    tokio::join!(relaying, talk).0.unwrap();
}
