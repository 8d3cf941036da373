//! Streams of bytes that do not repeat: written from a seed, and held to it byte by byte at the other end.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::lab::apps::checksum::Pattern;

const CHUNK_BYTES: usize = 16 * 1024;
/// The bytes of the count that ends a stream.
const COUNT_BYTES: usize = 8;

/// What was written of a stream.
pub(super) struct Sent {
    pattern: Pattern,
    chunk: Vec<u8>,
    /// The written part of the chunk.
    written: usize,
    bytes: u64,
}

/// What was read of a stream, and held to its seed.
pub(super) struct Expected {
    pattern: Pattern,
    chunk: Vec<u8>,
    /// The part of the chunk that was read already.
    read: usize,
    bytes: u64,
}

// === impl Sent ===

impl Sent {
    pub(super) fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), chunk: vec![0; CHUNK_BYTES], written: CHUNK_BYTES, bytes: 0 }
    }

    /// The number of bytes that were written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes some more bytes. If the future is dropped, the stream goes on where it was.
    pub(super) async fn write_some(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.written == self.chunk.len() {
            self.pattern.fill(&mut self.chunk);
            self.written = 0;
        }
        let wrote = stream.write(self.chunk.get(self.written..).unwrap_or_default()).await?;
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += wrote;
        self.bytes += wrote as u64;
        Ok(())
    }
}

// === impl Expected ===

impl Expected {
    pub(super) fn new(seed: u64) -> Self {
        Self { pattern: Pattern::new(seed), chunk: vec![0; CHUNK_BYTES], read: CHUNK_BYTES, bytes: 0 }
    }

    /// The number of bytes that came and were right.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Holds the next bytes to the seed.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.read == self.chunk.len() {
                self.pattern.fill(&mut self.chunk);
                self.read = 0;
            }
            let left = self.chunk.get(self.read..).unwrap_or_default();
            let (now, later) = bytes.split_at(left.len().min(bytes.len()));
            if !left.starts_with(now) {
                let near = self.bytes;
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("other bytes after {near}")));
            }
            self.read += now.len();
            self.bytes += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// Reads to the end, and holds all bytes to the seed. Returns their number.
pub(super) async fn check_all(stream: &mut (impl AsyncRead + Unpin), seed: u64) -> io::Result<u64> {
    let (mut expected, mut buffer) = (Expected::new(seed), vec![0; CHUNK_BYTES]);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(expected.bytes()),
            length => expected.check(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

/// Reads to the end, and holds all bytes to the seed but the last ones, which say how many there are.
pub(super) async fn check_counted(stream: &mut (impl AsyncRead + Unpin), seed: u64) -> io::Result<u64> {
    let (mut expected, mut buffer) = (Expected::new(seed), Vec::with_capacity(CHUNK_BYTES));
    loop {
        let came = stream.read_buf(&mut buffer).await?;
        let checked = buffer.len().saturating_sub(COUNT_BYTES);
        expected.check(buffer.get(..checked).unwrap_or_default())?;
        buffer.drain(..checked);
        if came > 0 {
            continue;
        }
        let count = buffer.as_slice().try_into().map(u64::from_le_bytes);
        return match count {
            Ok(count) if count == expected.bytes() => Ok(count),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the end after {} bytes", expected.bytes()),
            )),
        };
    }
}

#[cfg(test)]
mod tests;
