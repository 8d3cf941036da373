//! Sends bytes as fast as possible for a time, and counts how many arrived. The code is lean enough to measure what
//! is between the two ends. It has no checksums; [`super::bulk`] has them. A client's request is one byte.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

use super::{AppError, Background, Route, accept_all, background, bulk::Direction, connect, listen};
use crate::lab::net::Namespace;

const UP: u8 = b'u';
const DOWN: u8 = b'd';
/// The request that the server reads no further.
const STOP: u8 = b's';
const BUFFER_BYTES: usize = 128 * 1024;
/// How long a server that does not read keeps a connection open.
const STOPPED_FOR: Duration = Duration::from_secs(60);

/// What a measurement moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The direction of the bytes.
    pub direction: Direction,
    /// The number of streams at once.
    pub streams: usize,
    /// How long the sender sends.
    pub time: Duration,
    /// How long a connect may take, and how long the last bytes may take.
    pub limit: Duration,
}

/// The bytes that arrived, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The number of bytes that arrived, of all streams.
    pub bytes: u64,
    /// The time from the first connect to the last byte.
    pub elapsed: Duration,
}

// === impl Report ===

impl Report {
    /// The throughput in Gbit/s.
    pub(crate) fn gigabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e9 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Serves on `port` of `namespace` until the value is dropped. The result counts connections.
pub(crate) fn serve(namespace: &Namespace, ip: IpAddr, port: u16) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    background(namespace, move |stop| {
        accept_all(listener, stop, |stream, _| async move {
            // The client notices a failure by itself: bytes or their number are missing.
            let _ = answer(stream).await;
        })
    })
}

/// Moves bytes for the plan's time. Errors: a stream breaks, or the stream's end takes longer than the limit.
pub(crate) fn run(route: &Route, plan: Plan) -> Result<Report, AppError> {
    let to = route.to;
    let moved = background(&route.from, move |_| async move {
        let all = LocalSet::new().run_until(streams(to, plan)).await;
        all.map_err(|error| ("move bytes", error))
    })?;
    moved.wait()?.map_err(|(what, error)| route.failed(what, error))
}

/// Opens `streams` connections and sends on each as much as fits, to a server that has stopped reading. The
/// connections last until the value is dropped or `time` has passed. The result counts the connections that could be
/// opened.
pub(crate) fn stall(route: &Route, streams: usize, time: Duration) -> Result<Background<usize>, AppError> {
    let to = route.to;
    background(&route.from, move |mut stop| async move {
        let (local, mut sending) = (LocalSet::new(), JoinSet::new());
        for _ in 0..streams {
            let sent = async move {
                let mut stream = connect(to, time).await?;
                stream.write_all(&[STOP]).await?;
                send(&mut stream).await
            };
            sending.spawn_local_on(async move { sent.await.err() }, &local);
        }
        let ended = async {
            let mut broken = 0;
            while sending.join_next().await.is_some() {
                broken += 1;
            }
            // A broken stream has ended; every other stream never ends.
            broken
        };
        let waited = local.run_until(async {
            tokio::select! {
                () = stop.stopped() => 0,
                () = tokio::time::sleep(time) => 0,
                broken = ended => broken,
            }
        });
        streams - waited.await
    })
}

async fn streams(to: SocketAddr, plan: Plan) -> io::Result<Report> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..plan.streams {
        tasks.spawn_local(stream(to, plan));
    }
    let mut bytes = 0;
    while let Some(done) = tasks.join_next().await {
        bytes += done.map_err(io::Error::other)??;
    }
    Ok(Report { bytes, elapsed: begun.elapsed() })
}

async fn stream(to: SocketAddr, plan: Plan) -> io::Result<u64> {
    let mut stream = connect(to, plan.limit).await?;
    if plan.direction == Direction::Down {
        stream.write_all(&[DOWN]).await?;
        let mut bytes = 0;
        let received = tokio::time::timeout(plan.time, receive(&mut stream, &mut bytes)).await;
        return match received {
            Ok(Ok(())) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(bytes),
        };
    }
    stream.write_all(&[UP]).await?;
    if let Ok(sent) = tokio::time::timeout(plan.time, send(&mut stream)).await {
        sent?;
    }
    let end = async {
        stream.shutdown().await?;
        stream.read_u64_le().await
    };
    tokio::time::timeout(plan.limit, end).await?
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    match stream.read_u8().await? {
        UP => {
            let mut bytes = 0;
            receive(&mut stream, &mut bytes).await?;
            stream.write_u64_le(bytes).await?;
            stream.shutdown().await
        }
        DOWN => send(&mut stream).await,
        STOP => {
            tokio::time::sleep(STOPPED_FOR).await;
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends until the stream breaks.
async fn send(stream: &mut TcpStream) -> io::Result<()> {
    let buffer = vec![0x5a; BUFFER_BYTES];
    loop {
        stream.write_all(&buffer).await?;
    }
}

/// Receives until the stream ends, and counts.
async fn receive(stream: &mut TcpStream, bytes: &mut u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => *bytes += length as u64,
        }
    }
}
