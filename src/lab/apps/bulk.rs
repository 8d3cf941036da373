//! Many bytes in one stream, checked at the other end, in either direction. A client's request is nine bytes: the
//! direction and the number of bytes. The receiver answers with the checksum of the received bytes, or compares them
//! with the sender's checksum.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

use super::{
    AppError, Background, Route, accept_all, background,
    checksum::{Checksum, Pattern},
    connect, listen,
};
use crate::lab::net::Namespace;

const UP: u8 = b'u';
const DOWN: u8 = b'd';
const BUFFER_BYTES: usize = 256 * 1024;

/// The direction of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// What a transfer moves.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The direction of the bytes.
    pub direction: Direction,
    /// The number of bytes of each stream.
    pub bytes: u64,
    /// The number of streams open at once.
    pub streams: usize,
    /// The longest time that the whole transfer may take.
    pub limit: Duration,
}

/// The result of a transfer in which every stream arrived whole and unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of bytes that all streams moved.
    pub bytes: u64,
    /// The time from the first connect to the last checksum.
    pub elapsed: Duration,
}

/// Why not all bytes could be moved.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct Failure {
    what: &'static str,
    source: io::Error,
}

/// Serves both directions on `port` of `namespace` until the value is dropped. The result counts connections.
pub fn serve(namespace: &Namespace, ip: IpAddr, port: u16) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    background(namespace, move |stop| {
        accept_all(listener, stop, |stream, _| async move {
            // The client notices a failure by itself: bytes or the checksum are missing.
            let _ = answer(stream).await;
        })
    })
}

/// Moves the bytes and waits for the end. Errors: a connection fails, the time limit passes, or a checksum is wrong.
pub fn run(route: &Route, plan: Plan) -> Result<Report, AppError> {
    start(route, plan)?.wait()?.map_err(|failure| route.failed(failure.what, failure.source))
}

/// Starts the transfer of [`run`] in the background.
pub fn start(route: &Route, plan: Plan) -> Result<Background<Result<Report, Failure>>, AppError> {
    let to = route.to;
    background(&route.from, move |mut stop| async move {
        let streams = LocalSet::new();
        tokio::select! {
            () = stop.stopped() => Err(Failure::new("move all bytes", io::ErrorKind::Interrupted)),
            moved = streams.run_until(tokio::time::timeout(plan.limit, streams_of(to, &plan))) => {
                moved.unwrap_or_else(|_| Err(Failure::new("move all bytes in time", io::ErrorKind::TimedOut)))
            }
        }
    })
}

/// Opens `streams` connections that ask for `bytes` each and never read, until the value is dropped or `time` has
/// passed. The result counts the connections that could be opened.
pub fn stall(
    route: &Route,
    streams: usize,
    bytes: u64,
    time: Duration,
) -> Result<Background<usize>, AppError> {
    let to = route.to;
    background(&route.from, move |mut stop| async move {
        let mut open = Vec::new();
        for _ in 0..streams {
            let asked = async {
                let mut stream = connect(to, time).await?;
                stream.write_all(&request(Direction::Down, bytes)).await?;
                io::Result::Ok(stream)
            };
            open.extend(asked.await);
        }
        // Both the end of the time and the owner's stop end the stall.
        let _ = tokio::time::timeout(time, stop.stopped()).await;
        open.len()
    })
}

// === impl Failure ===

impl Failure {
    fn new(what: &'static str, kind: io::ErrorKind) -> Self {
        Self { what, source: kind.into() }
    }

    fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, source }
    }
}

async fn streams_of(to: SocketAddr, plan: &Plan) -> Result<Report, Failure> {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..plan.streams {
        let (direction, bytes, limit) = (plan.direction, plan.bytes, plan.limit);
        tasks.spawn_local(async move {
            let mut stream = connect(to, limit).await.map_err(Failure::of("connect"))?;
            let asked = stream.write_all(&request(direction, bytes)).await;
            asked.map_err(Failure::of("ask for bytes"))?;
            let moved = match direction {
                Direction::Up => send(&mut stream, bytes, number as u64).await,
                Direction::Down => receive(&mut stream, bytes).await,
            };
            let sum = moved.map_err(Failure::of("move bytes"))?;
            let theirs = stream.read_u64_le().await.map_err(Failure::of("read the checksum"))?;
            if theirs == sum {
                Ok(())
            } else {
                Err(Failure::new("get the same checksum", io::ErrorKind::InvalidData))
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| Failure { what: "run a stream", source: io::Error::other(error) })??;
    }
    Ok(Report { bytes: plan.bytes * plan.streams as u64, elapsed: begun.elapsed() })
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let direction = stream.read_u8().await?;
    let bytes = stream.read_u64_le().await?;
    let sum = match direction {
        UP => receive(&mut stream, bytes).await?,
        DOWN => send(&mut stream, bytes, bytes).await?,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    stream.write_u64_le(sum).await?;
    stream.shutdown().await
}

fn request(direction: Direction, bytes: u64) -> [u8; 9] {
    let mut request = [if direction == Direction::Up { UP } else { DOWN }; 9];
    request[1..].copy_from_slice(&bytes.to_le_bytes());
    request
}

async fn send(stream: &mut TcpStream, bytes: u64, seed: u64) -> io::Result<u64> {
    let (mut sum, mut pattern, mut buffer) = (Checksum::default(), Pattern::new(seed), vec![0; BUFFER_BYTES]);
    while sum.length() < bytes {
        pattern.fill(&mut buffer);
        let part = part(&mut buffer, bytes - sum.length());
        sum.add(part);
        stream.write_all(part).await?;
    }
    Ok(sum.value())
}

async fn receive(stream: &mut TcpStream, bytes: u64) -> io::Result<u64> {
    let (mut sum, mut buffer) = (Checksum::default(), vec![0; BUFFER_BYTES]);
    while sum.length() < bytes {
        let part = part(&mut buffer, bytes - sum.length());
        let length = stream.read(part).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.add(part.get(..length).unwrap_or_default());
    }
    Ok(sum.value())
}

fn part(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.get_mut(..length).unwrap_or_default()
}
