//! Readers that stop: what they hold stays within the budget, and nobody else is stopped.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinSet, LocalSet},
    time::timeout,
};
use warren::{
    lab::apps::{Background, Stop, background},
    sys::limits::raise_open_files,
};

use crate::{
    load::{carry, resident},
    metrics::{metrics, metrics_show},
    support::*,
};

/// Readers that stop.
const READERS: usize = 2000;
/// What each reads before it stops: enough that its window has grown.
const READ: usize = 150_000;
const BUDGET: usize = 64 << 20;
/// What a connection takes besides: its task, its stream, its lines of the tables.
const CONNECTION_BYTES: usize = 24 << 10;
/// Buffers of shards and pages that the allocator keeps.
const KEPT_BYTES: usize = 48 << 20;

/// Writes to whoever connects, for ever. Small buffers in the kernel leave the bytes to the proxies.
fn flood(lab: &Lab, pod: &str, port: u16) -> Background<()> {
    let listener = listen(lab.pod(pod).unwrap(), port);
    socket2::SockRef::from(&listener).set_send_buffer_size(16 << 10).unwrap();
    listener.set_nonblocking(true).unwrap();
    let app = move |mut stop: Stop| async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let (local, mut writers) = (LocalSet::new(), JoinSet::new());
        let accept = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                writers.spawn_local(async move {
                    let chunk = vec![7; 64 << 10];
                    while stream.write_all(&chunk).await.is_ok() {}
                });
            }
        };
        local
            .run_until(async {
                tokio::select! { () = accept => {}, () = stop.stopped() => {} }
            })
            .await;
    };
    background(lab.pod(pod).unwrap(), app).unwrap()
}

async fn read_and_stop(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 << 10)?;
    let mut stream = socket.connect(to).await?;
    let (mut chunk, mut read) = (vec![0; 16 << 10], 0);
    while read < READ {
        match stream.read(&mut chunk).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read += n,
        }
    }
    Ok(stream)
}

/// Readers of `to` that have stopped, until the value is dropped.
fn stopped(lab: &Lab, to: &str, count: usize) -> Background<()> {
    let to = addr(to);
    let (tell, told) = std::sync::mpsc::channel();
    let app = move |mut stop: Stop| async move {
        let (local, mut readers) = (LocalSet::new(), JoinSet::new());
        for _ in 0..count {
            readers.spawn_local_on(read_and_stop(to), &local);
        }
        let mut held = Vec::new();
        let all = local.run_until(async {
            while let Some(reader) = readers.join_next().await {
                held.push(reader.unwrap().unwrap());
            }
        });
        timeout(6 * LIMIT, all).await.expect("all readers have read in time");
        tell.send(()).unwrap();
        stop.stopped().await;
    };
    let app = background(lab.pod("client").unwrap(), app).unwrap();
    told.recv_timeout(7 * LIMIT).unwrap();
    app
}

pub(crate) fn two_thousand_stopped_readers_hold_no_more_than_the_budget_and_stop_nobody() {
    raise_open_files().unwrap();
    let budget = BUDGET.to_string();
    let lab = raise_with(MESH, &[("WARREN_BUFFER_BUDGET", &budget)], Default::default());
    let _flood = flood(&lab, "server", 9200);
    carry(&lab, SERVER, (20, 1 << 20));
    let before = resident(&lab, "one");
    let readers = stopped(&lab, "10.77.2.1:9200", READERS);
    // What peers may send has arrived once no more arrives.
    let mut held = 0.0;
    eventually("rest", || {
        std::thread::park_timeout(Duration::from_millis(500));
        let now = metrics(&lab, "one").sum("warren_buffer_bytes", &[]);
        (std::mem::replace(&mut held, now) == now).then_some(())
    });
    let (now, after) = (metrics(&lab, "one"), resident(&lab, "one"));
    assert_eq!(now.sum("warren_buffer_budget_bytes", &[]), BUDGET as f64);
    assert!(held > READERS as f64 * 1024.0 && held <= BUDGET as f64, "{held}");
    let most = before as usize + BUDGET + READERS * CONNECTION_BYTES + KEPT_BYTES;
    assert!(after as usize <= most, "{after}, at most {most}");
    // Everybody else goes on, also on the tunnels of those who have stopped.
    open(&lab, "client", SERVER).unwrap();
    carry(&lab, SERVER, (50, 1 << 20));
    drop(readers);
    metrics_show(&lab, "one", "end of what waited", |metrics| {
        metrics.sum("warren_buffer_bytes", &[]) == 0.0 && metrics.sum("warren_buffer_lent_bytes", &[]) == 0.0
    });
}
