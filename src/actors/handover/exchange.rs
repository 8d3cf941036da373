//! One offer and its answer. However it ends, exactly one of the two processes has the connection.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    fault::Breaker,
    link::{Link, LinkError, STEP_WITHIN},
};
use crate::{
    dataplane::pod::departure::Answer,
    protocols::{
        config::HandoverStep,
        handover::{
            message::{Message, Verdict},
            packets::MAX_MESSAGE,
        },
    },
};

/// The time between two looks for the next process, and for connections that can be moved.
/// Limit: time between two looks for the next process and for connections to move: 50 ms; past it: the process looks again.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The pause after a connection was refused, which is offered again then.
/// Limit: time until connections that were refused are offered again: 500 ms; past it: they are.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// An offer that is under way. However it ends, the connection's task hears who has the connection.
pub(crate) struct Exchange<'a> {
    link: &'a mut Link,
    breaker: Option<&'a Breaker>,
    number: u64,
    /// `None` once the answer was passed on.
    answer: Option<oneshot::Sender<Answer>>,
}

// === impl Exchange ===

impl<'a> Exchange<'a> {
    /// Begins the offer `number`, of whose end `answer` hears.
    pub(crate) fn new(link: &'a mut Link, number: u64, answer: oneshot::Sender<Answer>) -> Self {
        Self { link, breaker: None, number, answer: Some(answer) }
    }

    /// Has the exchange broken on purpose where `breaker` says so.
    pub(super) fn breaking(mut self, breaker: &'a Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Makes the offer. The inner result is the peer's answer.
    ///
    /// # Errors
    /// The link is of no use any more.
    pub(crate) async fn run(
        mut self,
        message: &[u8],
        sockets: &[OwnedFd],
    ) -> Result<Result<(), String>, LinkError> {
        if message.len() > MAX_MESSAGE {
            return Ok(self.kept(format!("what moves is {} bytes", message.len())));
        }
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        self.reached(HandoverStep::OldStill).await;
        self.link.send(message, &fds).await?;
        self.reached(HandoverStep::OldOffered).await;
        let answer = self.link.recv(STEP_WITHIN).await?.ok_or(LinkError::Closed)?;
        self.reached(HandoverStep::OldAnswered).await;
        match answer {
            (Message::Verdict(Verdict { number, taken: Ok(()) }), _) if number == self.number => {
                self.tell(Answer::Taken);
                Ok(Ok(()))
            }
            (Message::Verdict(Verdict { number, taken: Err(reason) }), _) if number == self.number => {
                Ok(self.kept(reason))
            }
            _ => Err(LinkError::NotDue),
        }
    }

    async fn reached(&self, step: HandoverStep) {
        if let Some(breaker) = self.breaker {
            breaker.reached(step).await;
        }
    }

    fn kept(mut self, reason: String) -> Result<(), String> {
        self.tell(Answer::Kept);
        Err(reason)
    }

    fn tell(&mut self, answer: Answer) {
        // A task that has ended meanwhile has no connection any more.
        let _ = self.answer.take().map(|waits| waits.send(answer));
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        // The exchange failed, or was given up at any point.
        let taken = self.link.close_and_see(self.number);
        self.tell(if taken { Answer::Taken } else { Answer::Kept });
    }
}

#[cfg(test)]
mod tests;
