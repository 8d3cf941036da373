//! TLS handshakes over any byte stream. A handshake ends in a [`TlsStream`] that owns the traffic keys.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rustls::{
    ClientConfig, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{CertificateDer, ServerName},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    buffer::Buffers,
    record::RecordError,
    stream::{Keys, Received, TlsStream},
};

/// The maximum number of handshake bytes that the peer may send without completing a step.
/// Limit: handshake bytes that complete no step: 128 KiB; past it: the handshake fails.
const MAX_UNPROCESSED: usize = 128 * 1024;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Either side refused the other; rustls names who and why.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The peer went away before the end.
    #[error("peer closed the connection during the handshake")]
    PeerClosed,
    /// The peer sent too many bytes without completing a step of the handshake.
    #[error("peer sent more than {MAX_UNPROCESSED} bytes of incomplete handshake")]
    PeerFlood,
    /// A handshake message cannot be encoded.
    #[error("cannot encode a handshake message")]
    LocalEncode,
    /// The negotiated keys cannot be used.
    #[error("{0}")]
    Record(#[from] RecordError),
}

/// The peer's certificates and protocol as the handshake reported them.
#[derive(Debug)]
pub struct Peer {
    /// The peer's chain, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The negotiated application protocol.
    pub alpn: Option<Vec<u8>>,
}

/// Makes the client's side of a handshake over `io`.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn connect<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    mut io: Io,
    buffers: Buffers,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    let mut conn = UnbufferedClientConnection::new(config, name)?;
    let received = drive(&mut io, &mut conn).await?;
    let peer = Peer {
        certificates: conn.peer_certificates().map(owned).unwrap_or_default(),
        alpn: conn.alpn_protocol().map(<[u8]>::to_vec),
    };
    let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
    Ok((TlsStream::new(io, Keys::new(secrets, kernel.into())?, received, buffers), peer))
}

/// Makes the server's side of a handshake over `io`.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    mut io: Io,
    buffers: Buffers,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    let mut conn = UnbufferedServerConnection::new(config)?;
    let received = drive(&mut io, &mut conn).await?;
    let peer = Peer {
        certificates: conn.peer_certificates().map(owned).unwrap_or_default(),
        alpn: conn.alpn_protocol().map(<[u8]>::to_vec),
    };
    let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
    Ok((TlsStream::new(io, Keys::new(secrets, kernel.into())?, received, buffers), peer))
}

fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|c| c.clone().into_owned()).collect()
}

/// A client's or a server's side of a handshake. rustls has one type for each.
trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// The action that follows once the borrow of the connection has ended.
enum Next {
    Again,
    Send,
    Read,
    Done,
}

async fn drive<Io, S>(io: &mut Io, conn: &mut S) -> Result<Received, HandshakeError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Side,
{
    let mut received = Received::default();
    let mut outgoing = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = conn.process(&mut received.ciphertext);
        let next = match state {
            Ok(state) => step(state, &mut outgoing, &mut received.plaintext)?,
            Err(error) => {
                // The alert that tells the peer why is best effort.
                let alert = pending_alert(conn);
                drop(io.write_all(&alert).await);
                return Err(error.into());
            }
        };
        received.ciphertext.advance(discard.min(received.ciphertext.len()));
        match next {
            Next::Again => {}
            Next::Send => {
                io.write_all(&outgoing).await?;
                io.flush().await?;
                outgoing.clear();
            }
            Next::Read => {
                if received.ciphertext.len() > MAX_UNPROCESSED {
                    return Err(HandshakeError::PeerFlood);
                }
                if io.read_buf(&mut received.ciphertext).await? == 0 {
                    return Err(HandshakeError::PeerClosed);
                }
            }
            Next::Done => return Ok(received),
        }
    }
}

fn step<D>(
    state: ConnectionState<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    plaintext: &mut BytesMut,
) -> Result<Next, HandshakeError> {
    match state {
        ConnectionState::EncodeTlsData(mut message) => {
            let at = outgoing.len();
            let short = match message.encode(&mut []) {
                Err(EncodeError::InsufficientSize(short)) => short.required_size,
                Ok(_) => 0,
                Err(EncodeError::AlreadyEncoded) => return Err(HandshakeError::LocalEncode),
            };
            outgoing.resize(at + short, 0);
            let room = outgoing.get_mut(at..).unwrap_or_default();
            message.encode(room).map_err(|_| HandshakeError::LocalEncode)?;
            Ok(Next::Again)
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            Ok(Next::Send)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Read),
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plaintext.extend_from_slice(record?.payload);
            }
            Ok(Next::Again)
        }
        ConnectionState::WriteTraffic(_) => Ok(Next::Done),
        _ => Err(HandshakeError::PeerClosed),
    }
}

/// The alert rustls has queued after an error, encoded.
fn pending_alert<S: Side>(conn: &mut S) -> Vec<u8> {
    let mut alert = Vec::new();
    // The input is empty because rustls must not see the offending bytes a second time.
    if let Ok(state @ ConnectionState::EncodeTlsData(_)) = conn.process(&mut []).state {
        drop(step(state, &mut alert, &mut BytesMut::new()));
    }
    alert
}
