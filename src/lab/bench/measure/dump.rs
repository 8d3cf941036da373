//! Measures a dump of all that a proxy knows: how long the dump takes, and what memory it adds.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::size::first;
use crate::lab::bench::{
    bench_mesh::{BenchMesh, SOON},
    error::BenchError,
};

/// The admin port of each proxy.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// The bytes that are read between two looks at the memory.
const STEP: usize = 1 << 20;

/// A dump that was read to its end.
#[derive(Debug)]
pub(super) struct ReadDump {
    /// The time from the request to the last byte.
    pub(super) took: Duration,
    /// The size of the answer.
    pub(super) bytes: u64,
    /// The most bytes that the proxy had resident beyond those before the request.
    pub(super) added: u64,
}

/// Reads the dump of node one's proxy as fast as it comes.
pub(super) fn read(bench_mesh: &BenchMesh) -> Result<ReadDump, BenchError> {
    let resident = || Ok::<_, BenchError>(first(&bench_mesh.usage()?)?.resident_bytes);
    let (before, begun) = (resident()?, Instant::now());
    let node = bench_mesh.testbed.node("one")?;
    let mut stream = node
        .run(|| ask("/config_dump"))
        .map_err(|error| BenchError::Dump(io::Error::other(error)))?
        .map_err(BenchError::Dump)?;
    let (mut bytes, mut most, mut step) = (0, before, vec![0; STEP]);
    loop {
        let mut filled = 0;
        while let Some(rest) = step.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match stream.read(rest).map_err(BenchError::Dump)? {
                0 => break,
                n => filled += n,
            }
        }
        if bytes == 0 && !step.starts_with(b"HTTP/1.0 200") {
            return Err(BenchError::Dump(io::Error::other("the proxy refused the dump")));
        }
        bytes += filled as u64;
        most = most.max(resident()?);
        if filled < STEP {
            return Ok(ReadDump { took: begun.elapsed(), bytes, added: most - before });
        }
    }
}

/// Asks the admin port. Without HTTP/1.1 the body ends with the connection.
fn ask(path: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&ADMIN, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    Ok(stream)
}
