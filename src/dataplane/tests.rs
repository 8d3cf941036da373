//! Whole connections of the data plane, without a kernel: see the modules.

use std::{future::Future, net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{
    inbound, outbound, plaintext,
    pod::{conns::Arriving, network::PodNetwork},
};
use crate::runtime::shard::Shard;

type Serve<C, F> = fn((Arc<C>, Arriving), Shard, TcpStream, SocketAddr) -> F;

fn size<C, F: Future>(_: Serve<C, F>) -> usize {
    size_of::<F>()
}

/// A connection's task holds its future for as long as it lives, so its size is memory per idle connection.
#[test]
fn futures_of_connections_stay_small() {
    let sizes = [
        ("outbound", size(outbound::serve::<PodNetwork>), 600),
        ("plaintext", size(plaintext::serve::<PodNetwork>), 600),
        // One for many streams.
        ("tunnel", size(inbound::serve::<PodNetwork>), 2600),
        ("stream", inbound::stream_size(), 520),
    ];
    for (name, size, most) in sizes {
        assert!(size <= most, "the future of an {name} connection has {size} bytes, more than {most}");
    }
}
