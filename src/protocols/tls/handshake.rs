//! TLS handshakes over any byte stream. A handshake ends in a [`TlsStream`] that owns the traffic keys.

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use bytes::{Buf, BytesMut};
use rustls::{
    AlertDescription, ClientConfig, CommonState, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{CertificateDer, ServerName},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    buffer::Buffers,
    keys::Heard,
    record::RecordError,
    stream::{End, Keys, Received, TlsStream},
};

/// The number of bytes that the peer may send before the handshake is complete. The largest genuine flight has six
/// certificates of RSA-4096, some 12 KiB, and a key share of ML-KEM, 1.2 KiB.
/// Limit: bytes of a peer before its handshake is complete: 32 KiB; past it: the handshake fails.
const MAX_HANDSHAKE_BYTES: usize = 32 * 1024;
/// The number of bytes that one read of a handshake takes.
/// Limit: bytes of one read in a handshake: 4 KiB; past it: the rest is read next.
const READ_LEN: usize = 4096;

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
    /// The peer sent too many bytes without completing the handshake.
    #[error("peer sent more than {MAX_HANDSHAKE_BYTES} bytes of incomplete handshake")]
    PeerFlood,
    /// A handshake message cannot be encoded.
    #[error("cannot encode a handshake message")]
    LocalEncode,
    /// The negotiated keys cannot be used.
    #[error("{0}")]
    Record(#[from] RecordError),
}

// === impl HandshakeError ===

impl HandshakeError {
    /// Whether the reason is this side's certificate or configuration, and not the peer.
    pub fn is_own_fault(&self) -> bool {
        match self {
            Self::Tls(rustls::Error::AlertReceived(alert)) => matches!(
                alert,
                AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateRequired
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied
            ),
            Self::LocalEncode => true,
            _ => false,
        }
    }

    /// Whether this side refused the peer because a certificate of the peer's chain is revoked.
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)))
    }
}

/// The peer's certificates and protocol as the handshake reported them.
#[derive(Debug)]
pub struct Peer {
    /// The peer's chain, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The negotiated application protocol.
    pub alpn: Option<Vec<u8>>,
    /// The name of the key exchange group.
    pub group: Option<&'static str>,
    /// The name of the cipher suite.
    pub cipher: Option<&'static str>,
}

/// The turns of the handshakes that share a thread. A step of a handshake costs up to some milliseconds of processor
/// time before the peer is known, so whoever owns the thread decides when a step is due.
pub trait Turns {
    /// Takes `step` when its turn has come.
    fn take<T>(&self, step: impl FnOnce() -> T) -> impl Future<Output = T>;
}

/// Takes each step at once, for a thread without other work.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

impl Turns for AtOnce {
    async fn take<T>(&self, step: impl FnOnce() -> T) -> T {
        step()
    }
}

/// Makes the client's side of a handshake over `io`, and takes each step at once.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn connect<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: Io,
    buffers: Buffers,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    connect_in_turn(config, name, io, buffers, &AtOnce).await
}

/// Makes the client's side of a handshake over `io`, each step in its turn.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn connect_in_turn<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    mut io: Io,
    buffers: Buffers,
    turns: &impl Turns,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    let (heard, listens) = client_heard(&config);
    // The key share is made here.
    let mut conn = turns.take(|| UnbufferedClientConnection::new(listens, name)).await?;
    let received = drive(&mut io, &mut conn, turns).await?;
    let peer = Peer::of(&conn);
    let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
    let keys = Keys::new(&secrets, kernel.protocol_version(), End::Client, heard.take())?;
    Ok((TlsStream::new(io, keys, received, buffers), peer))
}

/// Makes the server's side of a handshake over `io`, and takes each step at once.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn accept<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    io: Io,
    buffers: Buffers,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    accept_in_turn(config, io, buffers, &AtOnce).await
}

/// Makes the server's side of a handshake over `io`, each step in its turn.
///
/// # Errors
/// See [`HandshakeError`]. There is no timeout: the caller sets the deadline.
pub async fn accept_in_turn<Io: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    mut io: Io,
    buffers: Buffers,
    turns: &impl Turns,
) -> Result<(TlsStream<Io>, Peer), HandshakeError> {
    let (heard, listens) = server_heard(&config);
    let mut conn = UnbufferedServerConnection::new(listens)?;
    let received = drive(&mut io, &mut conn, turns).await?;
    let peer = Peer::of(&conn);
    let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
    let keys = Keys::new(&secrets, kernel.protocol_version(), End::Server, heard.take())?;
    Ok((TlsStream::new(io, keys, received, buffers), peer))
}

/// A configuration for one handshake, whose traffic secrets are heard.
fn client_heard(config: &ClientConfig) -> (Arc<Heard>, Arc<ClientConfig>) {
    let (heard, mut config) = (Arc::new(Heard::default()), config.clone());
    config.key_log = heard.clone();
    (heard, config.into())
}

/// Like [`client_heard`], of a server.
fn server_heard(config: &ServerConfig) -> (Arc<Heard>, Arc<ServerConfig>) {
    let (heard, mut config) = (Arc::new(Heard::default()), config.clone());
    config.key_log = heard.clone();
    (heard, config.into())
}

// === impl Peer ===

impl Peer {
    /// What both sides have agreed on.
    fn of(conn: &CommonState) -> Self {
        Self {
            certificates: conn.peer_certificates().map(owned).unwrap_or_default(),
            alpn: conn.alpn_protocol().map(<[u8]>::to_vec),
            group: conn.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            cipher: conn.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
        }
    }
}

fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|c| c.clone().into_owned()).collect()
}

/// A client's or a server's side of a handshake. rustls has one type for each.
trait Side {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    /// Whether rustls has a message to encode before it looks at what arrived.
    fn has_message(&self) -> bool;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_message(&self) -> bool {
        self.wants_write()
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_message(&self) -> bool {
        self.wants_write()
    }
}

/// The action that follows once the borrow of the connection has ended.
enum Next {
    Again,
    Send,
    Read,
    Done,
}

async fn drive<Io, S>(io: &mut Io, conn: &mut S, turns: &impl Turns) -> Result<Received, HandshakeError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Side,
{
    let mut received = Received::default();
    let (mut outgoing, mut read) = (Vec::new(), 0);
    // Only what arrives is costly: a step after a write has nothing left to process.
    let mut arrived = false;
    loop {
        let next = if arrived {
            turns.take(|| advance(conn, &mut received, &mut outgoing)).await
        } else {
            advance(conn, &mut received, &mut outgoing)
        };
        arrived = false;
        match next {
            Ok(Next::Again) => {}
            Ok(Next::Send) => {
                io.write_all(&outgoing).await?;
                io.flush().await?;
                outgoing.clear();
            }
            Ok(Next::Read) => {
                let room = MAX_HANDSHAKE_BYTES - read;
                if room == 0 {
                    return Err(HandshakeError::PeerFlood);
                }
                let n = read_some(io, &mut received.ciphertext, room).await?;
                if n == 0 {
                    return Err(HandshakeError::PeerClosed);
                }
                read += n;
                arrived = true;
            }
            Ok(Next::Done) => return Ok(received),
            Err(error) => {
                // The alert that tells the peer why is best effort.
                drop(io.write_all(&outgoing).await);
                return Err(error);
            }
        }
    }
}

/// Appends what `io` has to `into`, at most `most` bytes. No buffer is held while nothing arrives.
async fn read_some<Io: AsyncRead + Unpin>(
    io: &mut Io,
    into: &mut BytesMut,
    most: usize,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); READ_LEN];
        let mut space = ReadBuf::uninit(&mut space);
        let mut space = space.take(most);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut space))?;
        into.extend_from_slice(space.filled());
        Poll::Ready(Ok(space.filled().len()))
    })
    .await
}

/// Takes all steps that need nothing more of the peer. After an error `outgoing` ends with the alert for the peer.
fn advance<S: Side>(
    conn: &mut S,
    received: &mut Received,
    outgoing: &mut Vec<u8>,
) -> Result<Next, HandshakeError> {
    loop {
        let UnbufferedStatus { discard, state } = conn.process(&mut received.ciphertext);
        let next = match state {
            Ok(state) => step(state, outgoing, &mut received.plaintext)?,
            Err(error) => {
                encode_alert(conn, outgoing);
                return Err(error.into());
            }
        };
        received.ciphertext.advance(discard.min(received.ciphertext.len()));
        if !matches!(next, Next::Again) {
            return Ok(next);
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

/// Encodes the alert that rustls has queued after an error, if there is one.
///
/// rustls panics if it looks for input in an empty buffer while it holds a part of a message. The input is empty
/// because rustls must not see the offending bytes a second time. So rustls is asked only for a message that it has.
fn encode_alert<S: Side>(conn: &mut S, outgoing: &mut Vec<u8>) {
    while conn.has_message() {
        let Ok(state @ ConnectionState::EncodeTlsData(_)) = conn.process(&mut []).state else { return };
        if step(state, outgoing, &mut BytesMut::new()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
