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
const PATIENCE: Duration = Duration::from_secs(30);
/// Room for an answer in a datagram, in bytes, if the client has not asked for more: some servers send more than they were
/// asked for.
/// Limit: an answer of a name server in a datagram: 4096 bytes, or what the client allows; past it: asked for again by
/// TCP.
const DATAGRAM: usize = 4096;

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is nobody to ask.
    #[error("there are no name servers")]
    Nobody,
    /// It took too long.
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    /// The network failed.
    #[error("{0}: {1}")]
    Io(SocketAddr, io::Error),
    /// What came is of no use.
    #[error("{0}: {1}")]
    Unusable(SocketAddr, Unusable),
}

/// Puts `query`'s question to the name servers, one after another, until one knows. What none knows is answered as the
/// last that answered at all has put it.
///
/// # Errors
/// What went wrong with the last one.
pub(crate) async fn ask(ctx: &DnsContext, query: &Query) -> Result<Answer, AskError> {
    let Some(settings) = &ctx.config.dns else { return Err(AskError::Nobody) };
    let resolvers = &settings.resolvers;
    let deadline = Instant::now() + PATIENCE;
    let (mut error, mut unsure) = (AskError::Nobody, None);
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
        // To ask again would be to hear it again.
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
) -> Result<Answer, AskError> {
    let asked = forward::query(query, rand::rng().random());
    let room = query.datagram().max(DATAGRAM);
    let silent = |_| AskError::Silent(server);
    let answer = timeout_at(limit(), by_datagram(ctx, server, &asked, room)).await.map_err(silent)??;
    let part = match answer {
        Some(answer) if !answer.is_truncated() => return Ok(answer),
        part => part,
    };
    let whole = timeout_at(limit(), by_connection(ctx, server, &asked)).await.map_err(silent);
    whole.flatten().or_else(|error| part.ok_or(error))
}

/// The answer; `None` if it is longer than `room`.
async fn by_datagram(
    ctx: &DnsContext,
    server: SocketAddr,
    asked: &[u8],
    room: usize,
) -> Result<Option<Answer>, AskError> {
    let failed = |error| AskError::Io(server, error);
    let socket =
        ctx.network.netns.enter_sticky(|| open(ctx.network.mark(), server)).and_then(|socket| socket);
    let socket = socket.and_then(UdpSocket::from_std).map_err(failed)?;
    socket.send(asked).await.map_err(failed)?;
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
            // What does not fit to the question is for somebody else, or a guess of somebody who would like to be believed.
            Ok(_) => {
                if let Ok(answer) = Answer::read(bytes, asked) {
                    return Ok(Some(answer));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A socket of its own for each question: its port is one thing more that a forger would have to guess.
fn open(mark: Option<u32>, server: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&server.into())?;
    Ok(socket.into())
}

async fn by_connection(ctx: &DnsContext, server: SocketAddr, asked: &[u8]) -> Result<Answer, AskError> {
    let mut stream = ctx
        .network
        .connect(server, None, PathScope::Network)
        .await
        .map_err(|error| AskError::Io(server, io::Error::other(error)))?;
    let bytes = exchange(&mut stream, asked).await.map_err(|error| AskError::Io(server, error))?;
    Answer::read(bytes, asked).map_err(|error| AskError::Unusable(server, error))
}

async fn exchange(stream: &mut TcpStream, asked: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(asked);
    stream.write_all(&framed).await?;
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
