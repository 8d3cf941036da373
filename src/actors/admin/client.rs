//! Asks the admin port of a proxy, for the command line.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a proxy may take to answer.
/// Limit: an answer to `warren tree` and its kin: 5 s; past it: the command fails.
const ADMIN_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// An answer may be so large.
/// Limit: size of an answer to `warren tree` and its kin: 64 MiB; past it: the command fails.
const ADMIN_ANSWER_BYTES: u64 = 64 << 20;

/// A proxy did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody listens there, or the connection broke.
    #[error("no proxy answers on {admin}: {error}")]
    Connection {
        /// The admin port.
        admin: SocketAddr,
        /// What happened.
        error: io::Error,
    },
    /// No answer in time.
    #[error("the proxy on {admin} has not answered within {after:?}")]
    Silent {
        /// The admin port.
        admin: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// Something else than a proxy's admin port answered.
    #[error("what listens on {admin} is no admin port")]
    Foreign {
        /// The admin port.
        admin: SocketAddr,
    },
}

/// Sends a request and gives the status and text of the answer. `target` is a path, perhaps with a query, encoded.
///
/// # Errors
/// See [`AskError`]; an answer of any status is none.
pub(crate) async fn ask(admin: SocketAddr, method: &str, target: &str) -> Result<(u16, String), AskError> {
    ask_within(admin, method, target, ADMIN_ANSWER_WITHIN).await
}

/// Sends a request as [`ask`] does, with another bound of the answer's time.
///
/// # Errors
/// See [`AskError`]; an answer of any status is none.
pub(crate) async fn ask_within(
    admin: SocketAddr,
    method: &str,
    target: &str,
    within: Duration,
) -> Result<(u16, String), AskError> {
    // HTTP/1.0, so that a body whose length is not known ahead comes without chunks.
    let head = format!(
        "{method} {target} HTTP/1.0\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ADMIN_ANSWER_BYTES).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = timeout(within, exchange)
        .await
        .map_err(|_| AskError::Silent { admin, after: within })?
        .map_err(|error| AskError::Connection { admin, error })?;
    if answer.is_empty() {
        let error = io::ErrorKind::UnexpectedEof.into();
        return Err(AskError::Connection { admin, error });
    }
    parse(&answer).ok_or(AskError::Foreign { admin })
}

/// Status and body of an answer that ended with its connection.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let status = std::str::from_utf8(head).ok()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, String::from_utf8_lossy(body.get(4..)?).into_owned()))
}

/// Encodes what a path may not hold; `/` stays.
pub(crate) fn encode(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Encodes a value of a query.
pub(crate) fn encode_value(value: &str) -> String {
    encode(value).replace('/', "%2F").replace(':', "%3A")
}

#[cfg(test)]
mod tests;
