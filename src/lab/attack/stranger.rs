//! Attacks of a stranger: somebody who reaches the ports of pods and nodes and has no certificate of the mesh.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::hands::{Attack, Blows, hands};
use crate::lab::net::Namespace;

/// The first bytes of a ClientHello that never ends.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
/// A part of a handshake message, and a record of another kind before the rest.
const SPLIT: &[u8] = &[0x16, 3, 1, 0, 4, 1, 0, 0x10, 0, 0x17, 3, 3, 0, 1, 0];
/// How often a connection that is kept alive asks again.
const KEPT: Duration = Duration::from_millis(20);
/// How long a hoarder tries to write.
const WRITE_WITHIN: Duration = Duration::from_millis(30);

/// Connects, says `said`, and stays until the other side hangs up.
async fn hold(to: SocketAddr, said: &[u8], blows: Blows) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(said).await?;
    blows.dealt(1);
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// So many connections that say `said` and no more.
pub(super) fn hoard(
    from: &Namespace,
    to: SocketAddr,
    said: &'static [u8],
    count: usize,
) -> Result<Attack, String> {
    hands(from, count, move |blows| hold(to, said, blows))
}

/// Handshakes that stop after a few bytes.
pub(super) fn half_open(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hoard(from, to, HALF_A_HELLO, 300)
}

/// Handshake messages that are split by a record of another kind.
pub(super) fn split_messages(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hoard(from, to, SPLIT, 16)
}

/// Bytes that are no TLS.
pub(super) fn garbage(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hoard(from, to, &[0xA5; 4096], 16)
}

/// Connections that are reset as soon as they stand.
pub(super) fn resets(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    hands(from, 16, move |blows| async move {
        let stream = TcpStream::connect(to).await?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        blows.dealt(1);
        Ok(())
    })
}

/// Clients that keep their connections to a port of operators and ask again and again.
pub(super) fn keep_asking(from: &Namespace, to: SocketAddr, path: &'static str) -> Result<Attack, String> {
    hands(from, 70, move |blows| async move {
        let mut stream = TcpStream::connect(to).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut sink = vec![0; 16 << 10];
        loop {
            stream.write_all(request.as_bytes()).await?;
            if stream.read(&mut sink).await? == 0 {
                return Ok(());
            }
            blows.dealt(1);
            tokio::time::sleep(KEPT).await;
        }
    })
}

/// So many uploads that are aborted while their application reads nothing, and no further ones.
pub(super) fn aborted_uploads(from: &Namespace, to: SocketAddr) -> Result<Attack, String> {
    const UPLOADS: u64 = 150;
    const PIECES: usize = 3;
    hands(from, 8, move |blows| async move {
        if blows.count() >= UPLOADS {
            return std::future::pending().await;
        }
        blows.dealt(1);
        let mut stream = TcpStream::connect(to).await?;
        let piece = vec![1; 1 << 20];
        for _ in 0..PIECES {
            if tokio::time::timeout(WRITE_WITHIN, stream.write_all(&piece)).await.is_err() {
                break;
            }
        }
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    })
}

/// Answers of a name server that nobody has asked, to all ports that a pod may ask from.
pub(super) fn forged_answers(from: &Namespace, to: IpAddr) -> Result<Attack, String> {
    /// The ephemeral ports of Linux.
    const PORTS: std::ops::Range<u16> = 32_768..61_000;
    const AT_ONCE: usize = 256;
    // The header of an answer without an error: one question, one answer, and no names.
    const ANSWER: [u8; 12] = [0x42, 0x42, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    hands(from, 1, move |blows| async move {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for (n, port) in PORTS.enumerate() {
            // A refusal that came back for an earlier port is of no interest.
            if socket.send_to(&ANSWER, (to, port)).is_ok() {
                blows.dealt(1);
            }
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    })
}
