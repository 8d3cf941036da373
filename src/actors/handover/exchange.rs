//! Offers and their answers. However an offer ends, exactly one of the two processes has the connection.
//!
//! Several offers may be in flight on one link. [`InFlight`] has their messages go out one by one, and [`Answers`] hands
//! each answer to its offer.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::yield_now, time::timeout};

use super::{
    fault::Breaker,
    link::{Link, LinkError, LinkSender, SILENT_FOR, STEP_WITHIN},
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

/// The offers that are in flight on a link.
pub(crate) struct InFlight {
    link: LinkSender,
    /// Held while a message goes out, of which others must not be in the middle.
    sends: tokio::sync::Mutex<()>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Heard>>>,
    /// The offers that were taken, of those whose answers nobody had received when the link was closed.
    taken: Mutex<Option<HashSet<u64>>>,
}

/// The peer's answers.
pub(crate) struct Answers<'a>(&'a mut Link);

/// What the peer says of an offer. The error: why it is refused.
type Heard = Result<(), String>;

/// An offer that is under way. However it ends, the connection's task hears who has the connection.
pub(crate) struct Exchange<'a> {
    in_flight: &'a InFlight,
    breaker: Option<&'a Breaker>,
    number: u64,
    hears: oneshot::Receiver<Heard>,
    /// What the peer has said, if it was received.
    heard: Option<Heard>,
    /// `None` once the answer was passed on.
    answer: Option<oneshot::Sender<Answer>>,
    /// Set when the peer has the connection.
    taken: Option<&'a AtomicBool>,
}

// === impl InFlight ===

impl InFlight {
    /// What is under way on a link whose greetings are over.
    pub(crate) fn open(link: &mut Link) -> (Self, Answers<'_>) {
        let (sends, waiting, taken) = Default::default();
        (Self { link: link.sender(), sends, waiting, taken }, Answers(link))
    }

    /// Begins the offer `number`, of whose end `answer` hears.
    pub(crate) fn offer(&self, number: u64, answer: oneshot::Sender<Answer>) -> Exchange<'_> {
        let (tells, hears) = oneshot::channel();
        self.waiting.lock().insert(number, tells);
        Exchange {
            in_flight: self,
            breaker: None,
            number,
            hears,
            heard: None,
            answer: Some(answer),
            taken: None,
        }
    }

    /// Gives the link up, and tells whether the peer has said before that it has taken the offer `number`.
    fn close_and_see(&self, number: u64) -> bool {
        self.taken.lock().get_or_insert_with(|| self.link.close_and_see()).contains(&number)
    }
}

// === impl Answers ===

impl Answers<'_> {
    /// Does `work`, whose offers in flight are answered meanwhile.
    ///
    /// # Errors
    /// That of `work`, or the link is of no use any more.
    pub(crate) async fn beside<T>(
        mut self,
        in_flight: &InFlight,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        tokio::select! {
            biased;
            done = work => done,
            error = self.hand_out(in_flight) => Err(error),
        }
    }

    /// Hands each answer to its offer, until the link is of no use any more.
    async fn hand_out(&mut self, in_flight: &InFlight) -> LinkError {
        loop {
            let answer = match self.0.recv(SILENT_FOR).await {
                Ok(Some((Message::Verdict(answer), _))) => answer,
                Ok(Some(_)) => return LinkError::NotDue,
                Ok(None) => return LinkError::Closed,
                // Each offer has its own time.
                Err(LinkError::TimedOut) => continue,
                Err(error) => return error,
            };
            let Verdict { number, taken } = answer;
            let Some(waits) = in_flight.waiting.lock().remove(&number) else { return LinkError::NotDue };
            // An offer that was given up looks into the link itself.
            let _ = waits.send(taken);
            // The offer has a turn before anything else happens to the link.
            yield_now().await;
        }
    }
}

// === impl Exchange ===

impl<'a> Exchange<'a> {
    /// Has the exchange broken on purpose where `breaker` says so.
    pub(super) fn breaking(mut self, breaker: &'a Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Has `taken` set when the peer has the connection, however the exchange ends.
    pub(super) fn noting(mut self, taken: &'a AtomicBool) -> Self {
        self.taken = Some(taken);
        self
    }

    /// Makes the offer. The inner result is the peer's answer.
    ///
    /// # Errors
    /// The link is of no use any more.
    pub(crate) async fn run(mut self, message: &[u8], sockets: &[OwnedFd]) -> Result<Heard, LinkError> {
        if message.len() > MAX_MESSAGE {
            self.tell(Answer::Kept);
            return Ok(Err(format!("what moves is {} bytes", message.len())));
        }
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        {
            let _sends = self.in_flight.sends.lock().await;
            self.reached(HandoverStep::OldStill).await;
            self.in_flight.link.send(message, &fds).await?;
        }
        self.reached(HandoverStep::OldOffered).await;
        let heard = timeout(STEP_WITHIN, &mut self.hears).await.map_err(|_| LinkError::TimedOut)?;
        self.heard = Some(heard.map_err(|_| LinkError::Closed)?);
        self.reached(HandoverStep::OldAnswered).await;
        let heard = self.heard.take().ok_or(LinkError::Closed)?;
        self.tell(if heard.is_ok() { Answer::Taken } else { Answer::Kept });
        Ok(heard)
    }

    async fn reached(&self, step: HandoverStep) {
        if let Some(breaker) = self.breaker {
            breaker.reached(step).await;
        }
    }

    fn tell(&mut self, answer: Answer) {
        if let Some(taken) = self.taken.filter(|_| answer == Answer::Taken) {
            taken.store(true, Relaxed);
        }
        // A task that has ended meanwhile has no connection any more.
        let _ = self.answer.take().map(|waits| waits.send(answer));
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.in_flight.waiting.lock().remove(&self.number);
        if self.answer.is_none() {
            return;
        }
        // The exchange failed, or was given up at any point.
        let heard = self.heard.take().or_else(|| self.hears.try_recv().ok());
        let taken = heard.map_or_else(|| self.in_flight.close_and_see(self.number), |heard| heard.is_ok());
        self.tell(if taken { Answer::Taken } else { Answer::Kept });
    }
}

#[cfg(test)]
mod tests;
