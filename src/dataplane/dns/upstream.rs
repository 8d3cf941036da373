//! Asking the name servers of the node, from inside a pod.

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

use super::context::DnsContext;
use crate::{
    dataplane::pod::network::Network as _,
    protocols::dns::{
        forward::{self, Answer, Unusable},
        query::Query,
    },
    sys::pacing::PathScope,
};

/// All attempts together take no longer: the client has given up by then.
/// Limit: all attempts for a query: 30 s; past it: SERVFAIL.
const DNS_FORWARD_WITHIN: Duration = Duration::from_secs(30);
/// Room for an answer in a datagram, in bytes, if the client asks for less: some servers send more than that.
/// Limit: an answer of a name server in a datagram: 4096 bytes, or what the client allows; past it: asked for again by
/// TCP.
const DNS_DATAGRAM_BYTES: usize = 4096;

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// There are no name servers.
    #[error("there are no name servers")]
    NoServers,
    /// It took too long.
    #[error("{0} does not answer")]
    TimedOut(SocketAddr),
    /// The network failed.
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
    /// What came is of no use.
    #[error("{0}: {1}")]
    Unusable(SocketAddr, Unusable),
}

/// Forwards `query` to the name servers, one after another, until one knows. What none knows is answered as the
/// last that answered at all has put it.
///
/// # Errors
/// What went wrong with the last one.
pub(crate) async fn forward(ctx: &DnsContext, query: &Query) -> Result<Answer, UpstreamError> {
    let Some(settings) = &ctx.config.dns else { return Err(UpstreamError::NoServers) };
    let resolvers = &settings.resolvers;
    let deadline = Instant::now() + DNS_FORWARD_WITHIN;
    let (mut error, mut unsure) = (UpstreamError::NoServers, None);
    for _ in 0..resolvers.attempts {
        for &server in &resolvers.servers {
            if Instant::now() >= deadline {
                break;
            }
            match ask_one(ctx, server, query, &|| deadline.min(Instant::now() + resolvers.timeout)).await {
                Ok(answer) if answer.is_final() => return Ok(answer),
                Ok(answer) => unsure = Some(answer),
                Err(why) => error = why,
            }
        }
        // Another attempt would have the same answer.
        if let Some(answer) = unsure {
            return Ok(answer);
        }
    }
    Err(error)
}

/// Asks one server, by TCP again if its answer is cut short; that is better than none where TCP does not come through.
/// `limit`: until when something that begins now is waited for.
async fn ask_one(
    ctx: &DnsContext,
    server: SocketAddr,
    query: &Query,
    limit: &dyn Fn() -> Instant,
) -> Result<Answer, UpstreamError> {
    let message = forward::query(query, rand::rng().random());
    let room = query.datagram().max(DNS_DATAGRAM_BYTES);
    let silent = |_| UpstreamError::TimedOut(server);
    let answer = timeout_at(limit(), by_datagram(ctx, server, &message, room)).await.map_err(silent)??;
    let part = match answer {
        Some(answer) if !answer.is_truncated() => return Ok(answer),
        part => part,
    };
    let whole = timeout_at(limit(), by_connection(ctx, server, &message)).await.map_err(silent);
    whole.flatten().or_else(|error| part.ok_or(error))
}

/// The answer; `None` if it is longer than `room`.
async fn by_datagram(
    ctx: &DnsContext,
    server: SocketAddr,
    message: &[u8],
    room: usize,
) -> Result<Option<Answer>, UpstreamError> {
    let failed = |error| UpstreamError::Io(server, error);
    let socket =
        ctx.network.netns.enter_sticky(|| open(ctx.network.mark(), server)).and_then(|socket| socket);
    let socket = socket.and_then(UdpSocket::from_std).map_err(failed)?;
    socket.send(message).await.map_err(failed)?;
    loop {
        // That nobody listens there is no reading matter: it shows as an error alone.
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
            // What does not fit to the query is for somebody else, or a guess of somebody who would like to be believed.
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

/// A socket of its own for each query: its port is one thing more that a forger would have to guess.
fn open(mark: Option<u32>, server: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&server.into())?;
    Ok(socket.into())
}

async fn by_connection(
    ctx: &DnsContext,
    server: SocketAddr,
    message: &[u8],
) -> Result<Answer, UpstreamError> {
    let mut stream = ctx
        .network
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
