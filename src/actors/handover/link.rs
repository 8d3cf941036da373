//! A link between two processes: messages with descriptors, each step within its time.

use std::{
    collections::HashSet,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    protocols::handover::{
        message::{BadMessage, Hello, Message, Verdict, encode_hello},
        packets::{Assembly, BadPacket, MAX_MESSAGE_FDS, MAX_PACKET, MAX_PACKET_FDS, split},
    },
    sys::fdpass::{self, RecvError, SeqPacket},
};

/// The time for a step of a link: to write a packet of a message, or to have a message answered.
/// Limit: a step of the hand-over of connections: 2 s; past it: the link is closed, and the connection stays where it was.
pub(crate) const STEP_WITHIN: Duration = Duration::from_secs(2);
/// The time to write a whole message, whose packets the peer takes one after the other.
/// Limit: writing a message of the hand-over of connections: 8 s; past it: the link is closed, and the connection stays where
/// it was.
const MESSAGE_WITHIN: Duration = Duration::from_secs(8);
/// The longest silence of a process that hands over.
/// Limit: silence of a process that hands connections over: 60 s; past it: the link is closed, and can be made anew.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(60);

/// A link to another process of the same user.
pub(crate) struct Link {
    socket: LinkSender,
    /// What a packet is received into. It is wiped when it is dropped.
    room: Zeroizing<Box<[u8]>>,
    /// What has come of the next message.
    assembly: Assembly,
    fds: Vec<OwnedFd>,
}

/// Sends on a link, while others receive on it.
#[derive(Clone)]
pub(crate) struct LinkSender(Arc<SeqPacket>);

/// Why a link is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The process at the other end is another user's.
    #[error("the process at the other end belongs to user {peer}, and this one to user {own}")]
    PeerUser {
        /// The peer's user.
        peer: u32,
        /// The user of this process.
        own: u32,
    },
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer sent what cannot be read.
    #[error("{0}")]
    Recv(#[from] RecvError),
    /// The peer sent what is no packet.
    #[error("the peer sent {0}")]
    Packet(#[from] BadPacket),
    /// The peer sent what is no message, or is of no use as a peer.
    #[error("{0}")]
    Message(#[from] BadMessage),
    /// The peer sent too many descriptors.
    #[error("the peer sent more than {MAX_MESSAGE_FDS} descriptors")]
    PeerDescriptors,
    /// The peer did not take or send a message in time.
    #[error("no progress within {STEP_WITHIN:?}")]
    TimedOut,
    /// The peer has closed the link.
    #[error("the peer has closed the link")]
    Closed,
    /// The peer sent another message than the one that was due.
    #[error("the peer sent a message that was not due")]
    NotDue,
}

// === impl Link ===

impl Link {
    /// Makes a link of `socket`, whose other end must belong to the same user.
    ///
    /// # Errors
    /// The other end belongs to another user, or the kernel does not say.
    pub(crate) fn new(socket: SeqPacket) -> Result<Self, LinkError> {
        check_user(socket.peer_user()?, fdpass::own_user())?;
        let room = Zeroizing::new(vec![0; MAX_PACKET].into());
        let socket = LinkSender(Arc::new(socket));
        Ok(Self { socket, room, assembly: Assembly::default(), fds: Vec::new() })
    }

    /// Exchanges greetings. `first`: this end speaks first.
    ///
    /// # Errors
    /// The peer is of no use, or does not answer.
    pub(crate) async fn greet(&mut self, own: &Hello, first: bool) -> Result<Hello, LinkError> {
        if first {
            self.send(&encode_hello(own), &[]).await?;
        }
        let Some((Message::Hello(hello), _)) = self.recv(STEP_WITHIN).await? else {
            return Err(BadMessage::NoHello.into());
        };
        // The answer goes out first, so that a peer of another version learns of that, too.
        if !first {
            self.send(&encode_hello(own), &[]).await?;
        }
        hello.check(own)?;
        Ok(hello)
    }

    /// Sends as [`LinkSender::send`] does.
    ///
    /// # Errors
    /// The link is of no use.
    pub(crate) async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        self.socket.send(message, fds).await
    }

    /// Sends while another task receives.
    pub(crate) fn sender(&self) -> LinkSender {
        self.socket.clone()
    }

    /// Receives the next message and its descriptors; `None` once the peer has closed the link.
    ///
    /// # Errors
    /// The link is of no use.
    pub(crate) async fn recv(
        &mut self,
        within: Duration,
    ) -> Result<Option<(Message, Vec<OwnedFd>)>, LinkError> {
        let Some((message, fds)) = self.recv_bytes(within).await? else { return Ok(None) };
        Ok(Some((Message::decode(&message)?, fds)))
    }

    /// Receives the bytes of the next message and its descriptors, as [`Link::recv`] does. The bytes are wiped when they
    /// are dropped.
    ///
    /// # Errors
    /// The link is of no use.
    pub(crate) async fn recv_bytes(
        &mut self,
        within: Duration,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)>, LinkError> {
        timeout(within, self.next()).await.map_err(|_| LinkError::TimedOut)?
    }

    /// Receives the next message. Dropped before it has come, the call loses nothing of it.
    async fn next(&mut self) -> Result<Option<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)>, LinkError> {
        while let Some(mut packet) = self.socket.0.recv_into(&mut self.room).await? {
            self.fds.append(&mut packet.fds);
            if self.fds.len() > MAX_MESSAGE_FDS {
                return Err(LinkError::PeerDescriptors);
            }
            let bytes = Zeroizing::new(std::mem::take(&mut packet.bytes));
            if let Some(message) = self.assembly.push(&bytes)? {
                return Ok(Some((message, std::mem::take(&mut self.fds))));
            }
        }
        Ok(None)
    }
}

// === impl LinkSender ===

impl LinkSender {
    /// Sends a message, with `fds` in its first packets. A message of one packet is sent whole or not at all.
    ///
    /// # Errors
    /// The link is of no use.
    pub(crate) async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let all = async {
            let mut fds = fds;
            for packet in split(message, fds.len()) {
                let (now, later) = fds.split_at(fds.len().min(MAX_PACKET_FDS));
                let sent = timeout(STEP_WITHIN, self.0.send_all(&packet, now)).await;
                sent.map_err(|_| LinkError::TimedOut)??;
                fds = later;
            }
            Ok(())
        };
        timeout(MESSAGE_WITHIN, all).await.map_err(|_| LinkError::TimedOut)?
    }

    /// Gives the link up, and tells which records the peer has answered before that it has taken, of those whose answers
    /// nobody has received. The answer is exact: the peer can send nothing any more.
    pub(crate) fn close_and_see(&self) -> HashSet<u64> {
        self.0.refuse_more();
        let (mut room, mut taken) = (Zeroizing::new(vec![0; MAX_PACKET]), HashSet::new());
        while let Ok(Some(packet)) = self.0.recv_now(&mut room) {
            // An answer is one packet.
            let Ok(Some(message)) = Assembly::default().push(&packet.bytes) else { continue };
            if let Ok(Message::Verdict(Verdict { number, taken: Ok(()) })) = Message::decode(&message) {
                taken.insert(number);
            }
        }
        taken
    }
}

/// Refuses a peer of another user.
fn check_user(peer: u32, own: u32) -> Result<(), LinkError> {
    if peer == own { Ok(()) } else { Err(LinkError::PeerUser { peer, own }) }
}

#[cfg(test)]
mod tests;
