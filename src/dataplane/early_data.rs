//! Early data: the bytes that a client sends before the next hop of its connection is reached.
//!
//! Most clients speak first, and have sent bytes by the time the next hop is known. The proxy sends early data along
//! with the CONNECT rather than after the answer. The client saves a round trip between nodes, and both proxies save a
//! turn. HTTP/2 allows early data (RFC 9113 section 8.5), and the peer's flow control holds the bytes until the
//! application is reached. The proxy keeps early data until the answer arrives, as another attempt needs the same
//! bytes.

use std::{cell::RefCell, io::ErrorKind};

use bytes::Bytes;

use super::stream::AppStream;
use crate::protocols::relay::{ClientBytes, End, broken};

/// The number of a client's bytes that may go along with a CONNECT. Further bytes follow the answer.
/// Limit: bytes of a client that go along with a CONNECT: 4 KiB; past it: the rest follows the answer.
const MAX_EARLY_DATA: usize = 4 * 1024;

/// A client whose next hop is not reached yet. A drop after bytes were read resets the connection, as the kernel resets
/// a connection with unread bytes (docs/spec/dataplane.md 2.7).
#[derive(Debug)]
pub(crate) struct EarlyData<S: AppStream> {
    client: Option<S>,
    heard: RefCell<Option<Result<Bytes, End>>>,
}

// === impl EarlyData ===

impl<S: AppStream> EarlyData<S> {
    /// A client that was just accepted.
    pub(crate) fn new(client: S) -> Self {
        Self { client: Some(client), heard: RefCell::new(None) }
    }

    /// The bytes that the client has sent so far. Once some bytes were read, the result stays the same.
    pub(crate) fn said(&self) -> Bytes {
        let mut heard = self.heard.borrow_mut();
        if heard.is_none() {
            *heard = self.client.as_ref().and_then(read);
        }
        match &*heard {
            Some(Ok(said)) => said.clone(),
            _ => Bytes::new(),
        }
    }

    /// The client's side, and the early data that the relay must send first, unless the data `went_along` already.
    pub(crate) fn through(mut self, went_along: bool) -> Option<(S::Side, ClientBytes)> {
        let client = self.client.take()?;
        let said = match self.heard.take() {
            None => ClientBytes::NotRead,
            Some(Err(end)) => ClientBytes::Ended(end),
            Some(Ok(said)) if went_along => ClientBytes::Forwarded(said.len()),
            Some(Ok(said)) => ClientBytes::Pending(said),
        };
        Some((client.into_side(), said))
    }
}

impl<S: AppStream> Drop for EarlyData<S> {
    fn drop(&mut self) {
        if let (Some(client), Some(Ok(_))) = (&self.client, &*self.heard.borrow()) {
            client.reset_on_drop();
        }
    }
}

/// Reads once without waiting. The result is `None` if the client has sent nothing so far.
fn read(client: &impl AppStream) -> Option<Result<Bytes, End>> {
    let mut room = [0; MAX_EARLY_DATA];
    Some(match client.read_now(&mut room) {
        Ok(0) => Err(End::Finished),
        Ok(n) => Ok(Bytes::copy_from_slice(room.get(..n).unwrap_or_default())),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
        Err(error) => Err(broken(error)),
    })
}

#[cfg(test)]
mod tests;
