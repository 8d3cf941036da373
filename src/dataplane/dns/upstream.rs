//! The client that asks the node's name servers, from inside a pod or from the proxy's own namespace.

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    time::Duration,
};

use rand::Rng;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

use crate::{
    dataplane::pod::network::{Network as _, PodNetwork},
    protocols::dns::{
        forward::{self, Answer, Unusable},
        query::Query,
        resolvers::Resolvers,
    },
    sys::{descriptors, pacing::PathScope},
};

/// The time that all attempts for a query may take together. The client has given up by then.
/// Limit: all attempts for a query: 30 s; past it: SERVFAIL.
const DNS_FORWARD_WITHIN: Duration = Duration::from_secs(30);
/// The least room for an answer in a datagram, in bytes. Some servers send more than the client allows.
/// Limit: an answer of a name server in a datagram: 4096 bytes, or what the client allows; past it: asked for again by
/// TCP.
const DNS_DATAGRAM_BYTES: usize = 4096;

/// The reason why no name server has answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The node has no name servers.
    #[error("there are no name servers")]
    NoServers,
    /// The name server did not answer in time.
    #[error("{0} does not answer")]
    TimedOut(SocketAddr),
    /// The network failed.
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
    /// The name server's answer is unusable.
    #[error("{0}: {1}")]
    Unusable(SocketAddr, Unusable),
}

/// Forwards `query` from `network` to the name servers, one after another, until a server gives a final answer. If no answer is
/// final, the last answer is returned.
///
/// # Errors
/// No server has answered, or the node has no name servers. The error is the last server's.
pub(crate) async fn forward(
    network: &PodNetwork,
    resolvers: &Resolvers,
    query: &Query,
) -> Result<Answer, UpstreamError> {
    let deadline = Instant::now() + DNS_FORWARD_WITHIN;
    let (mut error, mut unsure) = (UpstreamError::NoServers, None);
    for _ in 0..resolvers.attempts {
        for &server in &resolvers.servers {
            if Instant::now() >= deadline {
                break;
            }
            match ask_one(network, server, query, &|| deadline.min(Instant::now() + resolvers.timeout)).await
            {
                Ok(answer) if answer.is_final() => return Ok(answer),
                Ok(answer) => unsure = Some(answer),
                Err(why) => error = why,
            }
        }
        // Another attempt would get the same answer.
        if let Some(answer) = unsure {
            return Ok(answer);
        }
    }
    Err(error)
}

/// Asks one server by UDP, and again by TCP if the answer is truncated. The truncated answer is returned if TCP fails.
/// `limit` gives the deadline of a step that begins now.
async fn ask_one(
    network: &PodNetwork,
    server: SocketAddr,
    query: &Query,
    limit: &dyn Fn() -> Instant,
) -> Result<Answer, UpstreamError> {
    let message = forward::query(query, rand::rng().random());
    let room = query.datagram().max(DNS_DATAGRAM_BYTES);
    let silent = |_| UpstreamError::TimedOut(server);
    let answer =
        timeout_at(limit(), by_datagram(network, server, &message, room)).await.map_err(silent)??;
    let part = match answer {
        Some(answer) if !answer.is_truncated() => return Ok(answer),
        part => part,
    };
    let whole = timeout_at(limit(), by_connection(network, server, &message)).await.map_err(silent);
    whole.flatten().or_else(|error| part.ok_or(error))
}

/// Asks by UDP. The result is `None` if the answer does not fit in `room`.
async fn by_datagram(
    network: &PodNetwork,
    server: SocketAddr,
    message: &[u8],
    room: usize,
) -> Result<Option<Answer>, UpstreamError> {
    let failed = |error| UpstreamError::Io(server, error);
    let socket = network.netns.enter_sticky(|| open(network.mark(), server)).and_then(|socket| socket);
    let socket = socket.and_then(UdpSocket::from_std).map_err(failed)?;
    socket.send(message).await.map_err(failed)?;
    loop {
        // If nobody listens at the server, the socket becomes ready with an error and is not readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await.map_err(failed)?;
        if ready.is_error() {
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
            let _ = socket.try_io::<()>(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
        }
        let mut bytes = Vec::with_capacity(room);
        match socket.try_recv_buf(&mut bytes) {
            Ok(length) if length >= room => return Ok(None),
            // An answer that does not match the query is late, meant for another query, or forged, and is ignored.
            Ok(_) => {
                if let Ok(answer) = Answer::read(bytes, message) {
                    return Ok(Some(answer));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Opens a socket for one query. A separate port for each query is one more value that a forger must guess.
fn open(mark: Option<u32>, server: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if descriptors::is_of_reserve(&socket) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&server.into())?;
    Ok(socket.into())
}

async fn by_connection(
    network: &PodNetwork,
    server: SocketAddr,
    message: &[u8],
) -> Result<Answer, UpstreamError> {
    let mut stream = network
        .connect(server, None, PathScope::Network)
        .await
        .map_err(|error| UpstreamError::Io(server, io::Error::other(error)))?;
    let bytes = exchange(&mut stream, message).await.map_err(|error| UpstreamError::Io(server, error))?;
    Answer::read(bytes, message).map_err(|error| UpstreamError::Unusable(server, error))
}

async fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
