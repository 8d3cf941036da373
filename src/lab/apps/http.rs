//! A tiny HTTP/1.1 server, and single requests to it. The server answers with its own name and the client's address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{AppError, Background, Route, accept_all, background, connect, listen};
use crate::lab::net::Namespace;

/// The longest head of a request or an answer.
pub(super) const HEAD_BYTES: usize = 8 * 1024;
/// The longest body that [`get`] takes.
const BODY_BYTES: usize = 4 << 20;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; that of [`serve`] is `pod=NAME client=IP:PORT\n`.
    pub body: String,
    /// The client's own end of the connection.
    pub local: SocketAddr,
}

/// Serves on `port` of `namespace` until the value is dropped; every answer is 200 and has the body
/// `pod=NAME client=IP:PORT\n`, with the peer address of the connection. The result counts connections.
pub fn serve(namespace: &Namespace, ip: IpAddr, port: u16, name: &str) -> Result<Background<u64>, AppError> {
    let listener = listen(namespace, ip, port)?;
    let name = name.to_owned();
    background(namespace, move |stop| {
        accept_all(listener, stop, move |stream, client| {
            let client = SocketAddr::new(client.ip().to_canonical(), client.port());
            let body = format!("pod={name} client={client}\n");
            let head = |connection| {
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{connection}\r\n{body}", body.len())
            };
            let (keep, close) = (head(""), head("connection: close\r\n"));
            async move {
                // A client that goes away is no failure of the server.
                let _ = answer_all(stream, keep.as_bytes(), close.as_bytes()).await;
            }
        })
    })
}

/// Sends one GET over a connection of its own. Errors: no connection, or no whole answer, within `limit`.
pub fn get(route: &Route, host: &str, limit: Duration) -> Result<Answer, AppError> {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    exchange(route, &request, limit)
}

/// Sends the whole text of a request that asks to close the connection, and reads the answer.
pub fn exchange(route: &Route, request: &str, limit: Duration) -> Result<Answer, AppError> {
    let (to, request) = (route.to, request.to_owned());
    let work = background(&route.from, move |_| async move {
        let exchange = async {
            let mut stream = connect(to, limit).await.map_err(|error| ("connect", error))?;
            let local = stream.local_addr().map_err(|error| ("connect", error))?;
            stream.write_all(request.as_bytes()).await.map_err(|error| ("send the request", error))?;
            let mut answer = Vec::new();
            let read = (&mut stream).take((HEAD_BYTES + BODY_BYTES) as u64).read_to_end(&mut answer).await;
            read.map_err(|error| ("read the answer", error))?;
            Ok((answer, local))
        };
        let elapsed = Err(("get an answer", io::ErrorKind::TimedOut.into()));
        tokio::time::timeout(limit, exchange).await.unwrap_or(elapsed)
    })?;
    let (bytes, local) = work.wait()?.map_err(|(what, error): (_, io::Error)| route.failed(what, error))?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let whole = content_length(head).is_none_or(|length| length == body.len());
        whole.then(|| Answer { status, body: body.to_owned(), local })
    });
    parsed.ok_or_else(|| route.wrong(format!("{} bytes that are no whole HTTP answer", bytes.len())))
}

/// Answers pipelined or single requests without bodies until the client closes the connection or asks for that.
async fn answer_all(mut stream: TcpStream, keep: &[u8], close: &[u8]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        while let Some(length) = head_length(&buffer) {
            let head = buffer.get(..length).unwrap_or_default();
            if wants_close(head) {
                stream.write_all(close).await?;
                return stream.shutdown().await;
            }
            buffer.drain(..length);
            stream.write_all(keep).await?;
        }
        if buffer.len() > HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The length of the head at the start of `bytes`, its empty line included; none while the head is incomplete.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of the head's content-length.
pub(super) fn content_length(head: &str) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

/// Whether the head says that the connection ends with this exchange.
pub(super) fn wants_close(head: &[u8]) -> bool {
    let head = str::from_utf8(head).unwrap_or_default();
    header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests;
