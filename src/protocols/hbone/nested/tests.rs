//! TLS over a stream of a tunnel.

#![allow(clippy::disallowed_methods, reason = "tests own their tasks by the LocalSet they run in")]

use std::{future::poll_fn, pin::pin};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::{LocalSet, spawn_local},
};

use super::*;
use crate::protocols::{
    config::Http2Config,
    hbone::{
        client::{self, ConnectRequest},
        headers::TraceParent,
        server,
    },
    identity::Identity,
    tls::{buffer::Buffers, handshake, test_ca::TestCa},
};

const WINDOW: u32 = 100_000;

/// Both ends of a stream of a tunnel whose windows are [`WINDOW`].
async fn stream() -> (StreamIo, StreamIo) {
    let config = Http2Config { stream_window: WINDOW, ..Http2Config::default() };
    let (near, far) = duplex(50_000);
    let accepting = async {
        let mut connection = server::handshake(far, &config).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let send = server::accept(&mut respond, None).unwrap();
        spawn_local(async move { while connection.accept().await.is_some() {} });
        StreamIo::new(StreamSide::new(send, Received::new(request.into_body())))
    };
    let opening = async {
        let (send, connection) = client::handshake(near, &config).await.unwrap();
        spawn_local(connection);
        let request = ConnectRequest {
            authority: "web.ns1:80".parse().unwrap(),
            baggage: None,
            forwarded: None,
            trace: TraceParent { trace_id: 1, span_id: 1, sampled: false },
            network: None,
        };
        StreamIo::new(client::connect(send, request, Bytes::new()).await.unwrap().0)
    };
    tokio::join!(opening, accepting)
}

/// TLS from end to end over such a stream.
async fn secured() -> (InnerTls, TlsStream<StreamIo>) {
    let (near, far) = stream().await;
    let (ca, buffers) = (TestCa::new("root"), Buffers::default());
    let id = |name| Identity::new("cluster.local", "ns1", name).unwrap();
    let config = ca.workload(&id("client")).client_config(&[id("server")]);
    let name = "10.0.0.1".try_into().unwrap();
    let (near, far) = tokio::join!(
        handshake::connect(config, name, near, buffers.clone()),
        handshake::accept(ca.workload(&id("server")).server_config(), far, buffers.clone())
    );
    (InnerTls::new(near.unwrap().0), far.unwrap().0)
}

#[tokio::test]
async fn bytes_and_the_end_pass_through_both_tunnels() {
    let work = async {
        let (mut near, mut far) = secured().await;
        let much: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 31 + i / 253) as u8).collect();
        let mut got = Vec::new();
        let sending = async {
            near.write_all(&much).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(sending, far.read_to_end(&mut got));
        read.unwrap();
        assert!(got == much, "bytes differ");
        far.write_all(b"goodbye").await.unwrap();
        far.shutdown().await.unwrap();
        let mut got = Vec::new();
        near.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"goodbye");
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn an_inner_tunnel_holds_few_bytes_while_nobody_reads() {
    let work = async {
        let (mut near, _far) = secured().await;
        let piece = vec![0; 50_000];
        let mut taken = 0;
        // Each turn lets the tunnel send; the bytes that are taken then have to wait somewhere.
        for _ in 0..100 {
            tokio::task::yield_now().await;
            let mut near = pin!(&mut near);
            let written = poll_fn(|cx| Poll::Ready(near.as_mut().poll_write(cx, &piece))).await;
            taken += match written {
                Poll::Ready(n) => n.unwrap(),
                Poll::Pending => 0,
            };
        }
        // The outer stream's window and the sealed bytes; one write may begin just below the bound.
        let most = WINDOW as usize + 2 * MAX_UNSENT;
        assert!(taken <= most, "{taken} bytes were taken");
        assert!(taken > WINDOW as usize, "the outer stream was full");
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn a_dropped_stream_is_an_error_for_the_other_end() {
    let work = async {
        let (near, mut far) = stream().await;
        drop(near);
        let mut byte = [0];
        let error = far.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn an_error_names_the_outer_tunnel_and_why_its_stream_was_reset() {
    let work = async {
        let (mut near, mut far) = stream().await;
        near.send.send_reset(h2::Reason::INTERNAL_ERROR);
        let error = far.read_exact(&mut [0]).await.unwrap_err();
        let why = "outer tunnel: stream reset by peer: unexpected internal error encountered";
        assert_eq!(error.to_string(), why);
    };
    LocalSet::new().run_until(work).await;
}
