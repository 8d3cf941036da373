//! What a capture has seen.

use std::net::{IpAddr, SocketAddr};

/// One direction of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// Bytes of the stream seen in order.
    pub bytes: u64,
    /// The number of whole TLS records in the flow.
    pub records: u64,
    /// Whether it begins with a TLS handshake record and all of it is TLS records (content types 20 to 23,
    /// versions 0x0301 to 0x0303); false for a flow without bytes or without its beginning.
    pub is_tls: bool,
    /// Whether the flow contained the marker.
    pub has_marker: bool,
    /// Whether every byte was seen from the connection's start on.
    pub is_complete: bool,
}

/// The result of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// All flows, sorted by sender and receiver.
    pub flows: Vec<Flow>,
    /// The number of packets that the capture missed because they came too fast. If it is not zero, an absence proves
    /// nothing.
    pub dropped: u64,
    /// The number of TCP packets whose flows exceeded the bound on flows.
    pub untracked: u64,
    /// The number of UDP datagrams that held the marker.
    pub marked_datagrams: u64,
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

    /// Whether any flow or datagram held the marker.
    pub fn has_marker(&self) -> bool {
        self.marked_datagrams > 0 || self.flows.iter().any(|flow| flow.has_marker)
    }

    /// Whether the capture missed nothing, so that an absence is a proof.
    pub fn is_complete(&self) -> bool {
        self.dropped == 0 && self.untracked == 0 && self.flows.iter().all(|flow| flow.is_complete)
    }
}
