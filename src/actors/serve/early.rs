//! What a client says before its connection is through.
//!
//! Most clients speak first, and have spoken by the time the next hop is known. What they said goes along with the
//! CONNECT rather than after its answer, which saves them a round trip between nodes and both proxies a turn. HTTP/2
//! allows it (RFC 9113 section 8.5), and the peer's flow control holds it until the application is reached. It is kept
//! until the answer is there: whoever is asked next gets it as well.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read as _},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    actors::sys::socket::AppSide,
    protocols::relay::{ClientBytes, End, broken},
};

/// Bytes of a client that may go along with a CONNECT; the rest follows its answer.
const EARLY: usize = 4 * 1024;

/// A client whose connection is not through yet. Dropped as such after it was heard, it is reset, as the kernel resets a
/// client that said what nobody read (contract/dataplane.md section 2.7).
#[derive(Debug)]
pub struct Early {
    client: Option<TcpStream>,
    heard: RefCell<Option<Result<Bytes, End>>>,
}

// === impl Early ===

impl Early {
    /// A client that was just accepted.
    pub fn new(client: TcpStream) -> Self {
        Self { client: Some(client), heard: RefCell::new(None) }
    }

    /// What the client has said so far; once that is anything, always the same.
    pub fn said(&self) -> Bytes {
        let mut heard = self.heard.borrow_mut();
        if heard.is_none() {
            *heard = self.client.as_ref().and_then(listen);
        }
        match &*heard {
            Some(Ok(said)) => said.clone(),
            _ => Bytes::new(),
        }
    }

    /// The client, and what its next hop has to be told first: all it said, unless that `went_along` already.
    pub fn through(mut self, went_along: bool) -> Option<(AppSide, ClientBytes)> {
        let client = self.client.take()?;
        let said = match self.heard.take() {
            None => ClientBytes::NotRead,
            Some(Err(end)) => ClientBytes::Ended(end),
            Some(Ok(said)) if went_along => ClientBytes::Forwarded(said.len()),
            Some(Ok(said)) => ClientBytes::Pending(said),
        };
        Some((AppSide::of(client), said))
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        if let (Some(client), Some(Ok(_))) = (&self.client, &*self.heard.borrow()) {
            // A socket that takes no option any more is reset already.
            let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Reads once what is there, whether or not the runtime knows of it yet. `None`: nothing so far.
fn listen(client: &TcpStream) -> Option<Result<Bytes, End>> {
    let mut said = [0; EARLY];
    Some(match (&*SockRef::from(client)).read(&mut said) {
        Ok(0) => Err(End::Finished),
        Ok(n) => {
            if n < EARLY {
                // The socket is drained: the runtime is told so, or the relay would ask it in vain.
                let _ = client.try_io::<()>(Interest::READABLE, || Err(ErrorKind::WouldBlock.into()));
            }
            Ok(Bytes::copy_from_slice(said.get(..n).unwrap_or_default()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
        Err(error) => Err(broken(error)),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::protocols::relay::{Side, tests::tcp};

    async fn accepted() -> (TcpStream, Early) {
        let (client, accepted) = tcp().await;
        (client, Early::new(accepted))
    }

    /// What the client has said, once that is anything.
    async fn heard(early: &Early) -> Bytes {
        loop {
            let said = early.said();
            if !said.is_empty() {
                return said;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_was_heard_stays_the_same_and_the_rest_is_left() {
        let (mut client, early) = accepted().await;
        assert_eq!(early.said(), "");
        client.write_all(b"first").await.unwrap();
        assert_eq!(heard(&early).await, "first");
        client.write_all(b"second").await.unwrap();
        assert_eq!(early.said(), "first");
        let (rest, said) = early.through(false).unwrap();
        assert!(matches!(said, ClientBytes::Pending(said) if said == "first"));
        let mut got = [0; 6];
        let rest = rest.plain().unwrap();
        rest.readable().await.unwrap();
        assert_eq!(rest.try_read(&mut got).unwrap(), 6);
        assert_eq!(&got, b"second");
    }

    #[tokio::test]
    async fn a_client_that_was_heard_in_vain_is_reset_and_no_other() {
        for said in ["", "hello"] {
            let (mut client, early) = accepted().await;
            client.write_all(said.as_bytes()).await.unwrap();
            if !said.is_empty() {
                assert_eq!(heard(&early).await, said);
            }
            drop(early);
            let end = client.read(&mut [0; 8]).await;
            match said {
                "" => assert_eq!(end.unwrap(), 0),
                _ => assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_went_through_is_not_reset() {
        let (mut client, early) = accepted().await;
        client.write_all(b"hello").await.unwrap();
        heard(&early).await;
        let (side, said) = early.through(true).unwrap();
        assert!(matches!(said, ClientBytes::Forwarded(5)));
        drop(side);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
