//! Captures the packets on a namespace's interface. A capture shows what hosts really send to each other, whether
//! that is TLS, and that a given plaintext never appears.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use self::flow::Flows;
use super::{AppError, Background, Stop, background_thread};
use crate::{
    lab::net::{Namespace, fabric::UPLINK_INDEX},
    sys::lab,
};

mod captured;
mod flow;
mod packet;

pub use self::captured::{Captured, Flow};

const POLL: Duration = Duration::from_millis(50);
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const CAPTURE_BYTES: usize = 256 * 1024;

/// A capture that runs until it is finished or dropped.
#[derive(Debug)]
pub struct Capture(Background<io::Result<Captured>>);

// === impl Capture ===

impl Capture {
    /// Starts a capture at the uplink of `namespace`, which searches for `marker` (not empty). The capture sees every
    /// packet from this call on.
    pub fn start(namespace: &Namespace, marker: &[u8]) -> Result<Self, AppError> {
        let failed = |source| AppError::Start { name: namespace.name().to_owned(), source };
        let socket = namespace.run(open)?.map_err(failed)?;
        let flows = Flows::new(marker);
        background_thread(namespace, move |stop| look(&socket, flows, &stop)).map(Self)
    }

    /// Stops the capture after the packets that have been received so far.
    pub fn finish(self) -> Result<Captured, AppError> {
        let name = "capture".to_owned();
        self.0.finish()?.map_err(|source| AppError::Start { name, source })
    }
}

fn open() -> io::Result<Socket> {
    // Without a protocol nothing is received until the socket is bound, so nothing of other interfaces slips in.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(POLL))?;
    lab::bind_packet_socket(socket.as_fd(), UPLINK_INDEX.cast_signed())?;
    Ok(socket)
}

fn look(socket: &Socket, mut flows: Flows, stop: &Stop) -> io::Result<Captured> {
    let mut buffer = vec![0; CAPTURE_BYTES];
    let mut reader = socket;
    let mut draining = false;
    let mut dropped = 0;
    loop {
        if stop.is_stopped() && !draining {
            draining = true;
            socket.set_nonblocking(true)?;
        }
        match reader.read(&mut buffer) {
            Ok(length) => flows.on_frame(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                dropped += u64::from(lab::packet_socket_drops(socket.as_fd())?);
                if draining {
                    return Ok(flows.finish(dropped));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
