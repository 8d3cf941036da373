//! The server's side of SOCKS 5 (RFC 1928): CONNECT alone, without authentication (docs/spec/dataplane.md 3.5).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The destination that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An address.
    Addr(SocketAddr),
    /// A name, which has at most 255 bytes.
    Host {
        /// The name.
        host: String,
        /// The TCP port.
        port: u16,
    },
}

/// The code of a reply (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The proxy goes on to connect.
    Granted = 0,
    /// The request cannot be served.
    Failed = 1,
    /// The name has no address.
    Unreachable = 4,
    /// The command or the kind of address is not supported.
    Unsupported = 7,
}

/// The reason why a client is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocksError {
    /// The client closed or broke the connection.
    #[error("client: {0}")]
    Io(#[from] io::Error),
    /// The client speaks another protocol.
    #[error("client speaks version {0} and not {VERSION}")]
    Version(u8),
    /// The client wants to authenticate itself.
    #[error("client offers no method without authentication")]
    Methods,
    /// The client's command is not CONNECT.
    #[error("command {0} is not supported")]
    Command(u8),
    /// The destination is of an unknown kind.
    #[error("address type {0} is not supported")]
    AddressType(u8),
    /// The destination's name is not text, or empty.
    #[error("the name of the destination is no name")]
    Name,
    /// The destination's port is zero.
    #[error("port 0 is no destination")]
    Port,
}

// === impl SocksError ===

impl SocksError {
    /// The reply that the client gets; `None` for a client that would not understand a reply, or has got one.
    pub(crate) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Io(_) | Self::Version(_) | Self::Methods => None,
            Self::Command(_) | Self::AddressType(_) => Some(Reply::Unsupported),
            Self::Name | Self::Port => Some(Reply::Failed),
        }
    }
}

/// Reads the client's greeting and request. Not a byte after the request is read.
///
/// # Errors
/// The client asks for what is not supported, or breaks the protocol.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Target, SocksError> {
    let [version, methods] = read(stream).await?;
    check(version)?;
    let mut offered = [0; u8::MAX as usize];
    let offered = offered.get_mut(..usize::from(methods)).unwrap_or_default();
    stream.read_exact(offered).await?;
    if !offered.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(SocksError::Methods);
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = read(stream).await?;
    check(version)?;
    let target = match kind {
        IPV4 => Target::Addr((read::<4>(stream).await?, stream.read_u16().await?).into()),
        IPV6 => Target::Addr((read::<16>(stream).await?, stream.read_u16().await?).into()),
        NAME => named(stream).await?,
        kind => return Err(SocksError::AddressType(kind)),
    };
    // The whole request is read before it is refused, so that the close does not reset the reply away.
    match target {
        _ if command != CONNECT => Err(SocksError::Command(command)),
        target if target.port() == 0 => Err(SocksError::Port),
        target => Ok(target),
    }
}

/// Sends a reply to the client's request. The address in the reply is unspecified.
///
/// # Errors
/// The client is gone.
pub(crate) async fn reply(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    stream.write_all(&[VERSION, reply as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
}

async fn named(stream: &mut (impl AsyncRead + Unpin)) -> Result<Target, SocksError> {
    let [length] = read(stream).await?;
    let mut name = vec![0; length.into()];
    stream.read_exact(&mut name).await?;
    let port = stream.read_u16().await?;
    let host = String::from_utf8(name).ok().filter(|name| !name.is_empty()).ok_or(SocksError::Name)?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => Target::Addr((ip, port).into()),
        Err(_) => Target::Host { host: host.to_ascii_lowercase(), port },
    })
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn check(version: u8) -> Result<(), SocksError> {
    if version == VERSION { Ok(()) } else { Err(SocksError::Version(version)) }
}

// === impl Target ===

impl Target {
    fn port(&self) -> u16 {
        match self {
            Self::Addr(addr) => addr.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

#[cfg(test)]
mod tests;
