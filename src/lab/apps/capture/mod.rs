//! Looks at the packets on a namespace's interface: what hosts really say to each other, whether that is TLS,
//! and that a given plaintext never shows.

use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
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

mod flow;
mod packet;

const POLL: Duration = Duration::from_millis(50);
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const PACKET_BYTES: usize = 256 * 1024;

/// One direction of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// Bytes of the stream seen in order.
    pub bytes: u64,
    /// Whole TLS records among them.
    pub records: u64,
    /// Whether it begins with a TLS handshake record and all of it is TLS records (content types 20 to 23,
    /// versions 0x0301 to 0x0303); false for a flow without bytes or without its beginning.
    pub is_tls: bool,
    /// Whether the marker was in it.
    pub has_marker: bool,
    /// Whether every byte was seen from the connection's start on.
    pub is_complete: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// All flows, by sender and receiver.
    pub flows: Vec<Flow>,
    /// Packets that came too fast to look at; with any, an absence proves nothing.
    pub dropped: u64,
    /// TCP packets of flows past the bound on flows.
    pub untracked: u64,
    /// UDP datagrams that held the marker.
    pub marked_datagrams: u64,
}

/// A capture that goes on until it is finished or dropped.
#[derive(Debug)]
pub struct Capture(Background<io::Result<Captured>>);

// === impl Capture ===

impl Capture {
    /// Starts looking at the uplink of `namespace` for `marker` (not empty). Packets from here on are seen.
    pub fn start(namespace: &Namespace, marker: &[u8]) -> Result<Self, AppError> {
        let failed = |source| AppError::Start { name: namespace.name().to_owned(), source };
        let socket = namespace.run(open)?.map_err(failed)?;
        let flows = Flows::new(marker);
        background_thread(namespace, move |stop| look(&socket, flows, &stop)).map(Self)
    }

    /// Stops after what has been received so far.
    pub fn finish(self) -> Result<Captured, AppError> {
        let name = "capture".to_owned();
        self.0.finish()?.map_err(|source| AppError::Start { name, source })
    }
}

// === impl Captured ===

impl Captured {
    /// The flows with bytes between two hosts, in both directions.
    pub fn between(&self, a: IpAddr, b: IpAddr) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| {
            let ends = (flow.from.ip(), flow.to.ip());
            flow.bytes > 0 && (ends == (a, b) || ends == (b, a))
        })
    }

    /// Whether the marker was anywhere.
    pub fn has_marker(&self) -> bool {
        self.marked_datagrams > 0 || self.flows.iter().any(|flow| flow.has_marker)
    }

    /// Whether nothing was missed, so that an absence means something.
    pub fn is_complete(&self) -> bool {
        self.dropped == 0 && self.untracked == 0 && self.flows.iter().all(|flow| flow.is_complete)
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
    let mut buffer = vec![0; PACKET_BYTES];
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
