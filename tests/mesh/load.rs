//! Many connections at once: every byte arrives, and what they took is given back.

use std::{
    hash::{BuildHasher, Hasher},
    io,
    net::SocketAddr,
    sync::Arc,
};

use foldhash::fast::FixedState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::{JoinSet, LocalSet},
};
use warren::{lab::apps::background, sys::limits::raise_open_files};

use crate::{
    metrics::{all_closed, metrics, metrics_show},
    support::*,
};

const CONNECTIONS: usize = 1000;
const BYTES: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;
/// Bytes of a connection that only makes the proxies grow as far as they do.
const FEW_BYTES: usize = 2 * CHUNK;
/// What a process may hold besides a tenth more than after the first burst: half a huge page for each place where its
/// allocator may have one open. Thirty KiB left behind by each connection would be more.
const KEPT_BYTES: u64 = 30 << 20;

/// Runs `count` connections from the client, all at once, each carrying `bytes` there and back.
pub(crate) fn carry(lab: &Lab, to: &str, (count, bytes): (usize, usize)) {
    let to = addr(to);
    let app = move |_| async move {
        let everybody = Arc::new(Barrier::new(count));
        let local = LocalSet::new();
        let mut tasks = JoinSet::new();
        for seed in 0..count {
            tasks.spawn_local_on(one(to, (seed, bytes), everybody.clone()), &local);
        }
        let all = local.run_until(async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap().unwrap_or_else(|error| panic!("a connection failed: {error}"));
            }
        });
        tokio::time::timeout(6 * LIMIT, all).await.expect("all connections in time");
    };
    background(lab.pod("client").unwrap(), app).unwrap().wait().unwrap();
}

async fn one(to: SocketAddr, (seed, bytes): (usize, usize), everybody: Arc<Barrier>) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"x").await?;
    assert_eq!(stream.read_u8().await?, b'x');
    // From here on all of them are open.
    everybody.wait().await;
    let (mut down, mut up) = stream.split();
    let sending = async {
        let (mut sum, mut chunk) = (FixedState::default().build_hasher(), vec![0; CHUNK]);
        for number in 0..bytes / CHUNK {
            chunk.fill((seed + number) as u8);
            chunk[..8].copy_from_slice(&((seed << 16) + number).to_le_bytes());
            sum.write(&chunk);
            up.write_all(&chunk).await?;
        }
        up.shutdown().await?;
        io::Result::Ok(sum.finish())
    };
    let receiving = async {
        let (mut sum, mut chunk) = (FixedState::default().build_hasher(), vec![0; CHUNK]);
        for _ in 0..bytes / CHUNK {
            down.read_exact(&mut chunk).await?;
            sum.write(&chunk);
        }
        let more = down.read(&mut chunk).await?;
        assert_eq!(more, 0, "bytes after the last");
        io::Result::Ok(sum.finish())
    };
    let (sent, received) = tokio::try_join!(sending, receiving)?;
    assert_eq!(sent, received);
    Ok(())
}

pub(crate) fn resident(lab: &Lab, node: &str) -> u64 {
    let (_, process) = lab.proxies().find(|(name, _)| *name == node).unwrap();
    process.usage().unwrap().resident_bytes
}

pub(crate) fn a_thousand_connections_carry_every_byte_and_leave_no_memory_behind() {
    raise_open_files().unwrap();
    // What unused tunnels hold is given back with them.
    let settings = [("POOL_UNUSED_RELEASE_TIMEOUT", "1s")];
    let lab = raise_with(MESH, &settings, Default::default());
    let files = ["one", "two"].map(|node| metrics(&lab, node).sum("process_open_fds", &[]));
    // What a proxy takes once: buffers of its shards, series of its metrics, pages of its allocator.
    carry(&lab, SERVER, (CONNECTIONS, FEW_BYTES));
    let before = at_rest(&lab, files);
    carry(&lab, SERVER, (CONNECTIONS, BYTES));
    let carried = (CONNECTIONS * (BYTES + FEW_BYTES + 2)) as f64;
    for node in ["one", "two"] {
        all_closed(&lab, node);
        let after = metrics(&lab, node);
        assert_eq!(after.sum("istio_tcp_connections_failed_total", &[]), 0.0, "{node}");
        assert_eq!(after.sum("istio_tcp_connections_opened_total", &[]), 2.0 * CONNECTIONS as f64, "{node}");
        assert_eq!(after.sum("istio_tcp_received_bytes_total", &[]), carried, "{node}");
        assert_eq!(after.sum("istio_tcp_sent_bytes_total", &[]), carried, "{node}");
    }
    at_rest(&lab, files);
    for (node, before) in ["one", "two"].into_iter().zip(before) {
        let most = before + before / 10 + KEPT_BYTES;
        eventually(&format!("memory of {node} back from {} to {most}", resident(&lab, node)), || {
            (resident(&lab, node) <= most).then_some(())
        });
    }
    open(&lab, "client", SERVER).unwrap();
}

/// Waits until every connection and every tunnel is gone; what the proxies hold then.
fn at_rest(lab: &Lab, files: [f64; 2]) -> [u64; 2] {
    for (node, files) in ["one", "two"].into_iter().zip(files) {
        all_closed(lab, node);
        metrics_show(lab, node, &format!("end of tunnels and no more than {files} open files"), |metrics| {
            metrics.sum("istio_tcp_sockets_open", &[]) == 0.0
                && metrics.sum("process_open_fds", &[]) <= files + 4.0
        });
    }
    ["one", "two"].map(|node| resident(lab, node))
}
