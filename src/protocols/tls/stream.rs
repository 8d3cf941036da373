//! The byte stream of an established TLS connection. The stream borrows a large buffer only while the buffer holds
//! bytes.

#[cfg(test)]
mod tests;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use rustls::{ExtractedSecrets, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
use super::aead::{Cipher, Key};
use super::{
    buffer::{BUFFER_LEN, Buffers, Window, append},
    keys::{FirstSecrets, SecretBytes},
    record::{
        ALERT, DATA, HANDSHAKE, HEADER_LEN, MAX_FRAGMENT, OVERHEAD, Opened, Protection, RecordError,
        RecordHead, Version,
    },
    session::{Session, SessionError},
};

/// The number of records after which a sending key is replaced, well below the limit of AES-GCM (RFC 8446 section 5.5).
/// Limit: records that are sealed with one key: 2^23; past it: the key is replaced (TLS 1.3).
const REKEY_AFTER: u64 = 1 << 23;
/// The number of records after which a key without a successor seals no more: the limit that rustls has for AES-GCM.
/// Limit: records that are sealed with one key of TLS 1.2: 2^24; past it: the connection ends. A tunnel takes no new
/// streams after half of that.
const LAST_RECORD: u64 = 1 << 24;
/// The maximum number of unsent bytes that are moved to the front of the outgoing buffer to make room.
/// Limit: unsent bytes that are moved to make room: 16 KiB; past it: sealing waits for the socket.
const CHEAP_TO_MOVE: usize = 16 * 1024;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const CHANGE_CIPHER_SPEC: u8 = 20;
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
/// A key update that does not request a key update of the peer.
const REQUESTLESS_KEY_UPDATE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
/// The number of consecutive records that may carry no data: alerts, handshake messages and empty records.
/// Limit: records in a row that carry nothing: 64; past it: the connection ends.
const MAX_IDLE_RECORDS: u8 = 64;

/// A TLS connection over `Io`.
///
/// Written bytes are sealed at once. The sealed bytes leave with the next flush, or when a buffer is full.
pub struct TlsStream<Io> {
    io: Io,
    keys: Keys,
    incoming: Window,
    /// The number of decrypted bytes at the front of `incoming`, and the length of the rest of their record.
    opened: (usize, usize),
    early: BytesMut,
    outgoing: Window,
    buffers: Buffers,
    read_closed: bool,
    write_closed: bool,
    /// Whether the peer has requested a new sending key before the next bytes.
    rekey_due: bool,
    /// The number of consecutive records that carried no data.
    idle_records: u8,
}

/// The keys of both directions.
pub(super) struct Keys {
    seal: Protection,
    open: Protection,
    version: Version,
}

/// The end of a session that this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

/// The bytes that had arrived after the handshake when the handshake completed.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The bytes that are not decrypted yet.
    pub(super) ciphertext: BytesMut,
    /// Application data that rustls has decrypted already.
    pub(super) plaintext: BytesMut,
}

// === impl Keys ===

impl Keys {
    /// Takes over the keys that a handshake has made. `heard`: the traffic secrets of a handshake of TLS 1.3.
    pub(super) fn new(
        secrets: &ExtractedSecrets,
        version: ProtocolVersion,
        end: End,
        heard: FirstSecrets,
    ) -> Result<Self, RecordError> {
        let ((seal_sequence, seal), (open_sequence, open)) = (&secrets.tx, &secrets.rx);
        match version {
            ProtocolVersion::TLSv1_3 => {
                let (own, peer) = match end {
                    End::Client => (heard.client, heard.server),
                    End::Server => (heard.server, heard.client),
                };
                let of = |first: Option<SecretBytes>| first.ok_or(RecordError::Cipher);
                Ok(Self {
                    seal: Protection::replaceable(*seal_sequence, seal, of(own)?)?,
                    open: Protection::replaceable(*open_sequence, open, of(peer)?)?,
                    version: Version::Tls13,
                })
            }
            ProtocolVersion::TLSv1_2 => Ok(Self {
                seal: Protection::fixed(*seal_sequence, seal)?,
                open: Protection::fixed(*open_sequence, open)?,
                version: Version::Tls12,
            }),
            _ => Err(RecordError::Cipher),
        }
    }
}

// === impl TlsStream ===

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    pub(super) fn new(io: Io, keys: Keys, received: Received, buffers: Buffers) -> Self {
        // The handshake leaves at most half a buffer of bytes.
        let incoming = Window::holding(&received.ciphertext, &buffers);
        let (early, outgoing) = (received.plaintext, Window::default());
        let (read_closed, write_closed) = (false, false);
        let (rekey_due, idle_records, opened) = (false, 0, (0, 0));
        Self {
            io,
            keys,
            incoming,
            opened,
            early,
            outgoing,
            buffers,
            read_closed,
            write_closed,
            rekey_due,
            idle_records,
        }
    }

    /// The session as a value. The stream goes on unless somebody else goes on with the value: whoever has given the
    /// value away must only drop the stream.
    ///
    /// The result is `None` if either end has closed the session, which ends soon.
    pub(crate) fn session(&mut self) -> Option<Session> {
        if self.read_closed || self.write_closed {
            return None;
        }
        let (opened, behind) = self.opened;
        let (unread, unopened) = self.incoming.filled().split_at_checked(opened).unwrap_or_default();
        Some(Session {
            seal: self.keys.seal.keys().clone(),
            open: self.keys.open.keys().clone(),
            rekey_due: self.rekey_due,
            idle_records: self.idle_records,
            unread: [&self.early, unread].concat(),
            unopened: unopened.get(behind..).unwrap_or_default().to_vec(),
            unsent: self.outgoing.filled().to_vec(),
        })
    }

    /// Goes on with a session over `io`. Nobody else may go on with it.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub(crate) fn resume(io: Io, session: Session, buffers: Buffers) -> Result<Self, SessionError> {
        let version = session.version().ok_or(SessionError::Keys)?;
        let longest = session.unopened.len().max(session.unsent.len());
        if longest > BUFFER_LEN {
            return Err(SessionError::TooLong(longest));
        }
        let Session { seal, open, rekey_due, idle_records, unread, unopened, unsent } = session;
        let keys = Keys { seal: Protection::of(seal)?, open: Protection::of(open)?, version };
        let received = Received { ciphertext: unopened[..].into(), plaintext: unread[..].into() };
        let mut stream = Self::new(io, keys, received, buffers);
        stream.outgoing = Window::holding(&unsent, &stream.buffers);
        (stream.rekey_due, stream.idle_records) = (rekey_due, idle_records);
        Ok(stream)
    }

    /// The connection below.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Whether a key has done half of its work and cannot be replaced, as in TLS 1.2. The owner should move to another
    /// connection.
    pub fn is_worn(&self) -> bool {
        let records = self.keys.seal.sequence().max(self.keys.open.sequence());
        self.keys.version == Version::Tls12 && records >= REKEY_AFTER
    }

    /// The number of sealed bytes that are not yet written to the connection below.
    pub fn unflushed_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Copies decrypted bytes to `buf`. The result tells whether `buf` received any bytes.
    fn copy_opened(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.remaining());
            append(buf, self.early.get(..n).unwrap_or_default());
            self.early.advance(n);
            return n > 0;
        }
        let (len, behind) = self.opened;
        if len == 0 {
            return false;
        }
        let n = len.min(buf.remaining());
        append(buf, self.incoming.filled().get(..n).unwrap_or_default());
        self.incoming.consume(n);
        self.opened.0 -= n;
        if self.opened.0 == 0 {
            self.incoming.consume(behind);
            self.opened.1 = 0;
        }
        n > 0
    }

    /// Opens the record at the front of `incoming` in place if the record is complete. The result tells whether a
    /// record was opened.
    fn open_next(&mut self) -> Result<bool, RecordError> {
        let filled = self.incoming.filled();
        let Some(head) = RecordHead::peek(filled)? else { return Ok(false) };
        let Some(record) = filled.get_mut(..head.record_len()) else { return Ok(false) };
        if head.content == CHANGE_CIPHER_SPEC && self.keys.version == Version::Tls13 {
            return Err(RecordError::PeerUnexpected(head.content));
        }
        let Opened { content, start, len } = self.keys.open.open(record)?;
        // Each empty record costs a decryption, so an endless row of empty records must end the connection.
        self.idle_records = if content == DATA && len > 0 { 0 } else { self.idle_records + 1 };
        if self.idle_records > MAX_IDLE_RECORDS {
            return Err(RecordError::PeerMalformed);
        }
        if content == DATA {
            self.incoming.consume(start);
            self.opened = (len, head.record_len() - start - len);
            if len == 0 {
                self.incoming.consume(std::mem::take(&mut self.opened.1));
            }
        } else {
            let message = record.get(start..start + len).unwrap_or_default().to_vec();
            self.incoming.consume(head.record_len());
            self.control(content, &message)?;
        }
        Ok(true)
    }

    /// Handles alerts and the messages that are allowed after the handshake.
    fn control(&mut self, content: u8, message: &[u8]) -> Result<(), RecordError> {
        match (content, message) {
            (ALERT, &[_, 0]) => self.read_closed = true,
            // Any other alert ends the connection (RFC 8446 section 6.2).
            (ALERT, &[_, alert]) => return Err(RecordError::PeerUnexpected(alert)),
            (HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, requested]) if self.keys.version == Version::Tls13 => {
                self.keys.open = self.keys.open.next()?;
                // The key is replaced later, because the outgoing buffer may have no room for a key update now.
                self.rekey_due |= requested == 1;
            }
            // Resumption is off, so a ticket is of no use.
            (HANDSHAKE, &[NEW_SESSION_TICKET, ..]) if self.keys.version == Version::Tls13 => {}
            _ => return Err(RecordError::PeerUnexpected(content)),
        }
        Ok(())
    }

    /// Requests a new sending key before the next bytes, as a peer may do.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn rekey_soon(&mut self) {
        self.rekey_due = true;
    }

    /// Continues as if `sequence` records had been sealed and opened.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn age(&mut self, sequence: u64) {
        self.keys.seal.age(sequence);
        self.keys.open.age(sequence);
    }

    /// Continues with the keys of another library.
    #[cfg(test)]
    pub(super) fn remake_keys(&mut self, make: fn(Cipher, &[u8]) -> Option<Key>) {
        self.keys.seal.remake(make);
        self.keys.open.remake(make);
    }

    /// Seals a record that a correct peer would never send.
    #[cfg(any(test, fuzzing))]
    #[allow(clippy::unwrap_used, reason = "tests leave room for the record")]
    pub(crate) fn seal_record(&mut self, content: u8, bytes: &[u8]) {
        self.seal(content, &[], bytes).unwrap();
    }

    /// Sends a key update to the peer and replaces the sending key. The outgoing buffer must have room.
    fn rekey(&mut self) -> Result<(), RecordError> {
        self.seal(HANDSHAKE, &[], &REQUESTLESS_KEY_UPDATE)?;
        self.rekey_due = false;
        self.keys.seal = self.keys.seal.next()?;
        Ok(())
    }

    /// Seals one fragment into the outgoing buffer, which must have room.
    fn seal(&mut self, content: u8, head: &[u8], tail: &[u8]) -> Result<(), RecordError> {
        let least = head.len() + tail.len() + OVERHEAD;
        let least = if self.outgoing.len() <= CHEAP_TO_MOVE { least } else { 0 };
        let space = self.outgoing.space(&self.buffers, least);
        let len = self.keys.seal.seal(content, head, tail, space)?;
        self.outgoing.extend(len);
        Ok(())
    }

    /// Seals as much of `slices` as the outgoing buffer has room for, and returns the number of bytes taken. Adjacent
    /// small slices share a record.
    fn seal_slices(&mut self, slices: &[io::IoSlice<'_>]) -> Result<usize, RecordError> {
        let used_up = self.keys.seal.sequence() >= REKEY_AFTER;
        if (used_up || self.rekey_due) && self.keys.version == Version::Tls13 {
            if self.room() < REQUESTLESS_KEY_UPDATE.len() {
                // The sealed bytes have to leave first.
                return Ok(0);
            }
            self.rekey()?;
        }
        if self.keys.seal.sequence() >= LAST_RECORD && self.keys.version == Version::Tls12 {
            return Err(RecordError::LocalKeyWorn);
        }
        let mut taken = 0;
        let mut head: &[u8] = &[];
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                // A short piece, such as the header of a frame, shares a record with the next piece.
                if head.is_empty() && rest.len() < 64 && taken == 0 && slices.len() > 1 {
                    (head, rest) = (rest, &[]);
                    continue;
                }
                let fits = self.room().min(MAX_FRAGMENT).saturating_sub(head.len());
                let (now, later) = rest.split_at_checked(fits.min(rest.len())).unwrap_or((rest, &[]));
                if now.is_empty() {
                    return Ok(taken);
                }
                self.seal(DATA, head, now)?;
                taken += head.len() + now.len();
                (head, rest) = (&[], later);
            }
        }
        if !head.is_empty() && self.room() >= head.len() {
            self.seal(DATA, &[], head)?;
            taken += head.len();
        }
        Ok(taken)
    }

    /// The number of plaintext bytes that the next record may carry.
    fn room(&mut self) -> usize {
        let least = if self.outgoing.len() <= CHEAP_TO_MOVE { MAX_FRAGMENT + OVERHEAD } else { 0 };
        self.outgoing.space(&self.buffers, least).len().saturating_sub(OVERHEAD)
    }

    /// Writes the sealed bytes to the connection below without flushing that connection.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(n);
        }
        self.outgoing.release(&self.buffers);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if buf.remaining() == 0 || this.copy_opened(buf) && buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.read_closed {
                this.incoming.release(&this.buffers);
                return Poll::Ready(Ok(()));
            }
            if this.open_next().map_err(invalid)? {
                continue;
            }
            // The bytes read so far are handed over before the next read.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let space = this.incoming.space(&this.buffers, HEADER_LEN + MAX_FRAGMENT * 4);
            let mut space = ReadBuf::new(space);
            match Pin::new(&mut this.io).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) if space.filled().is_empty() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(())) => {
                    let n = space.filled().len();
                    this.incoming.extend(n);
                }
                other => {
                    this.incoming.release(&this.buffers);
                    return other;
                }
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if slices.iter().all(|s| s.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            let taken = this.seal_slices(slices).map_err(invalid)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            ready!(this.poll_drain(cx))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_closed {
            if this.room() < CLOSE_NOTIFY.len() {
                ready!(this.poll_drain(cx))?;
            }
            this.write_closed = true;
            this.seal(ALERT, &[], &CLOSE_NOTIFY).map_err(invalid)?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<Io> Drop for TlsStream<Io> {
    fn drop(&mut self) {
        // Unread bytes are dropped with the connection, and the buffers return to the pool.
        self.incoming.consume(usize::MAX / 2);
        self.incoming.release(&self.buffers);
        self.outgoing.consume(usize::MAX / 2);
        self.outgoing.release(&self.buffers);
    }
}

fn invalid(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
