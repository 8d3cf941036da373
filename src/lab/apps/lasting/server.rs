//! The server of lasting streams.

use std::{io, net::IpAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use super::{
    habit::{Habit, REQUEST_BYTES, Request},
    pattern::{self, Sent},
};
use crate::lab::{
    apps::{AppError, Background, accept_all, background, listen},
    net::Namespace,
};

const BUFFER_BYTES: usize = 16 * 1024;
/// The number of bytes with which a server answers a client that has ended its direction.
const ANSWER_BYTES: u64 = 64 * 1024;
/// How long a client may take to say what it wants.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// Tells servers and clients that the end of their streams has come.
#[derive(Clone, Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

// === impl Gate ===

impl Gate {
    /// A gate that is closed.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Opens the gate: what has stopped goes on, and every stream comes to its end.
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub(super) async fn opened(&self) {
        // The sender lives in `self`, so there is no error.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }

    pub(super) fn is_open(&self) -> bool {
        *self.0.borrow()
    }
}

/// Serves lasting streams on `port` of `namespace` until the value is dropped. The result counts connections.
pub(crate) fn serve(
    namespace: &Namespace,
    ip: IpAddr,
    port: u16,
    gate: &Gate,
) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    let gate = gate.clone();
    background(namespace, move |stop| {
        accept_all(listener, stop, move |stream, _| {
            let gate = gate.clone();
            async move {
                // The client notices a failure by itself.
                let _ = answer(stream, &gate).await;
            }
        })
    })
}

pub(super) async fn answer(mut stream: TcpStream, gate: &Gate) -> io::Result<()> {
    let mut bytes = [0; REQUEST_BYTES];
    timeout(ASK_WITHIN, stream.read_exact(&mut bytes)).await??;
    let request = Request::decode(bytes).ok_or(io::ErrorKind::InvalidData)?;
    match request.habit {
        Habit::Idle | Habit::Paced | Habit::Saturated => echo(&mut stream).await?,
        Habit::ServerStopped => {
            gate.opened().await;
            let read = pattern::check_all(&mut stream, request.seed).await;
            stream.write_u64_le(read.unwrap_or(u64::MAX)).await?;
        }
        Habit::ClientStopped => {
            let mut sent = Sent::new(request.seed);
            while !gate.is_open() {
                tokio::select! {
                    wrote = sent.write_some(&mut stream) => wrote?,
                    () = gate.opened() => {}
                }
            }
            stream.write_u64_le(sent.bytes()).await?;
        }
        Habit::HalfClosed => {
            pattern::check_all(&mut stream, request.seed).await?;
            // The client is half-closed once it has this byte.
            stream.write_all(b"!").await?;
            gate.opened().await;
            let mut sent = Sent::new(request.seed);
            while sent.bytes() < ANSWER_BYTES {
                sent.write_some(&mut stream).await?;
            }
            stream.write_u64_le(sent.bytes()).await?;
        }
    }
    stream.shutdown().await
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => stream.write_all(buffer.get(..length).unwrap_or_default()).await?,
        }
    }
}
