//! Tests of the sizes of connection futures. The modules test whole connections without a kernel.

use std::future::Future;

use tokio::net::TcpStream;

use super::{accepted::Accepted, inbound, outbound, plaintext, pod::network::PodNetwork};

type Serve<C, F> = fn(Accepted<C, TcpStream>) -> F;

fn size<C, F: Future>(_: Serve<C, F>) -> usize {
    size_of::<F>()
}

/// A connection's task holds its future while the task lives, so the future's size is memory per idle connection.
#[test]
fn futures_of_connections_stay_small() {
    let sizes = [
        ("outbound", size(outbound::serve::<PodNetwork>), 600),
        ("plaintext", size(plaintext::serve::<PodNetwork>), 600),
        // A tunnel has one future for many streams.
        ("tunnel", size(inbound::serve::<PodNetwork>), 2600),
        ("stream", inbound::stream_size(), 520),
    ];
    for (name, size, most) in sizes {
        assert!(size <= most, "the future of an {name} connection has {size} bytes, more than {most}");
    }
}
