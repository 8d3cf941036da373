//! Streams of each habit come to their end whole, and what happens to one on the way is told.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, LocalSet},
};

use super::*;

/// How a connection between a client and a server is spoilt.
#[derive(Clone, Copy, PartialEq)]
enum Spoil {
    Nothing,
    /// A byte to the client is another one.
    Changes,
    /// The connection ends before the gate opens.
    Cuts,
}

/// Has streams of a habit run through a middle-man, and opens the gate once they are open.
async fn streams(habit: Habit, spoil: Spoil) -> Report {
    let gate = Gate::new();
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, middle) = (listen().await, listen().await);
    let (to_server, to_middle) = (server.local_addr().unwrap(), middle.local_addr().unwrap());
    let (opening, mut opened) = watch::channel(0);
    let plan = Plan {
        habit,
        streams: 3,
        pace: Duration::from_millis(5),
        limit: Duration::from_secs(10),
        windows: Windows::default(),
        gate: gate.clone(),
    };
    let local = LocalSet::new();
    let (served, cut) = (gate.clone(), opened.clone());
    local.spawn_local(async move {
        let mut streams = JoinSet::new();
        while let Ok((stream, _)) = server.accept().await {
            let gate = served.clone();
            streams.spawn_local(async move { super::server::answer(stream, &gate).await });
        }
    });
    local.spawn_local(async move {
        let mut carried = JoinSet::new();
        while let Ok((stream, _)) = middle.accept().await {
            carried.spawn_local(carry(stream, to_server, spoil, cut.clone()));
        }
    });
    let moved = Arc::new(AtomicU64::new(0));
    let all = super::client::all(to_middle, plan, opening, moved);
    local
        .run_until(async {
            tokio::join!(all, async {
                opened.wait_for(|opened| *opened == 3).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                gate.open();
            })
            .0
        })
        .await
}

async fn carry(client: TcpStream, to: SocketAddr, spoil: Spoil, mut opened: watch::Receiver<usize>) {
    let server = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if spoil == Spoil::Changes {
                buffer[length - 1] ^= 1;
            }
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    };
    let cut = async {
        let _ = opened.wait_for(|opened| *opened == 3).await;
        if spoil != Spoil::Cuts {
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        () = cut => {}
    }
}

#[tokio::test]
async fn streams_of_each_habit_come_to_their_end_whole() {
    for habit in Habit::ALL {
        let report = streams(habit, Spoil::Nothing).await;
        assert!(report.whole == 3 && report.streams == 3 && report.bytes > 0, "{habit:?}: {report:?}");
    }
}

#[tokio::test]
async fn a_changed_byte_is_wrong_and_a_cut_is_a_loss() {
    for habit in Habit::ALL {
        let changed = streams(habit, Spoil::Changes).await;
        assert!(changed.wrong == 3 && changed.whole == 0, "{habit:?}: {changed:?}");
        let cut = streams(habit, Spoil::Cuts).await;
        assert!(cut.broken == 3 && cut.wrong == 0, "{habit:?}: {cut:?}");
    }
}
