//! The receive windows of a tunnel's streams, as the budget of the node allows them.
//!
//! HTTP/2 has one initial window for all streams of a connection and returns what was read. So HTTP/2 believes in the
//! largest windows, and what it says about them is replaced on the way out (`outgoing.rs`). The peer is told the windows
//! of this module, and a peer that sends more has its stream ended.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::budget::ShardBudget;
use crate::protocols::config::Http2Config;

/// The largest window of HTTP/2 (RFC 9113 section 6.9.1).
/// No limit: a number of the wire.
pub(super) const LARGEST: u32 = (1 << 31) - 1;
/// A reader that reads half a window within this time gets a larger one. So a window is what a stream moves in twice
/// this time, and more than a round trip needs.
/// Limit: time in which half a window is read: 100 ms; past it: the window does not grow.
const QUICK: Duration = Duration::from_millis(100);
/// The same for a reader for which bytes have waited meanwhile. A fast reader has bytes wait, too, now and then.
/// Limit: time in which half a window is read although bytes have waited: 10 ms; past it: the window does not grow.
const QUICK_THOUGH_WAITED: Duration = Duration::from_millis(10);
/// A reader that takes longer for half a window has its window halved.
/// Limit: time in which half a window is read: 2 s; past it: half of the window beyond the first is given back.
const SLOW: Duration = Duration::from_secs(2);
/// The change of what waits in a tunnel, as a part of its window, with which the window is moved.
/// Limit: bytes that wait and are not made up for in the tunnel's window: an eighth of it; past it: it is moved.
const MOVED_PART: usize = 8;

/// The windows of one tunnel. Clones share them.
#[derive(Clone)]
pub struct Windows(Rc<TunnelWindows>);

struct TunnelWindows {
    budget: ShardBudget,
    /// The first window of each stream.
    first: usize,
    /// The largest window of a stream.
    most: usize,
    /// What the peer may send on all streams together, besides what waits for readers.
    connection: usize,
    /// What waits for readers.
    held: Cell<usize>,
    /// What the connection's window makes up for.
    made_up: Cell<usize>,
    /// What streams may send more, until the tunnel's driver says so. A stream has three at most: the first one, and then
    /// each takes half a window of bytes.
    updates: RefCell<Vec<(u32, u32)>>,
    driver: RefCell<Option<Waker>>,
    now: fn() -> Instant,
}

/// The receive window of one stream.
pub(super) struct StreamWindow {
    tunnel: Rc<TunnelWindows>,
    stream: u32,
    /// What the window is beyond the first one.
    loan: usize,
    /// What the peer may still send.
    credit: usize,
    /// What was received and not passed on.
    unread: usize,
    /// The part of `unread` that counts as waiting for its reader.
    held: usize,
    /// Whether bytes have waited since the peer was told of a window.
    waited: bool,
    /// Whether the loan of the beginning waits for another frame to go out with.
    rides: bool,
    /// When the peer was told of a window.
    told: Instant,
}

/// When the peer can be told what a stream may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mention {
    /// The peer knows the stream.
    Now,
    /// The peer may not know the stream yet.
    Later,
    /// The stream has ended.
    Never,
}

/// The error of a peer that has sent more than a stream's window.
#[derive(Debug, thiserror::Error)]
#[error("the peer has sent more than the stream's window")]
pub(super) struct PeerOverran;

// === impl Windows ===

impl Windows {
    /// Makes the windows of a tunnel. `now` tells the time.
    pub fn new(budget: ShardBudget, config: &Http2Config, now: fn() -> Instant) -> Self {
        let most = config.stream_window as usize;
        Self(Rc::new(TunnelWindows {
            first: budget.first_window().min(most),
            most,
            connection: config.connection_window as usize,
            budget,
            held: Cell::new(0),
            made_up: Cell::new(0),
            updates: RefCell::default(),
            driver: RefCell::default(),
            now,
        }))
    }

    /// The first window of each stream.
    pub(super) fn first(&self) -> u32 {
        u32::try_from(self.0.first).unwrap_or(LARGEST)
    }

    /// The window of a stream that begins.
    pub(super) fn of(&self, stream: u32) -> StreamWindow {
        self.lent(stream, self.0.budget.lend_to_begin(self.0.most - self.0.first))
    }

    /// The window of a stream that begins with `loan` bytes of the budget. The peer is told of them with the next frame
    /// that goes out, or once it has sent half of the first window: a frame of their own would cost a write.
    pub(super) fn lent(&self, stream: u32, loan: usize) -> StreamWindow {
        self.0.budget.stream(true);
        let (tunnel, told) = (self.0.clone(), (self.0.now)());
        let rides = loan > 0;
        if rides {
            tunnel.note(stream, loan);
        }
        let credit = tunnel.first + loan;
        StreamWindow { tunnel, stream, loan, credit, unread: 0, held: 0, waited: false, rides, told }
    }

    /// The window of a stream whose peer may still send `credit` bytes, and of which `unread` bytes have not been passed
    /// on. The peer knows of all of them.
    pub(super) fn resumed(&self, stream: u32, credit: usize, unread: usize) -> StreamWindow {
        let tunnel = self.0.clone();
        tunnel.budget.stream(true);
        let beyond =
            (credit + unread).saturating_sub(tunnel.first).min(tunnel.most.saturating_sub(tunnel.first));
        let loan = if beyond > 0 { tunnel.budget.lend(0, beyond) } else { 0 };
        let told = (tunnel.now)();
        StreamWindow { tunnel, stream, loan, credit, unread, held: 0, waited: false, rides: false, told }
    }

    /// What streams may send more since the last call: pairs of a stream and a number of bytes. `when` tells of a stream
    /// whether the peer can be told now.
    pub(super) fn updates(&self, mut when: impl FnMut(u32) -> Mention) -> Vec<(u32, u32)> {
        let mut updates = self.0.updates.borrow_mut();
        if updates.iter().all(|(stream, _)| when(*stream) == Mention::Now) {
            return std::mem::take(&mut updates);
        }
        updates.retain(|(stream, _)| when(*stream) != Mention::Never);
        updates.extract_if(.., |(stream, _)| when(*stream) == Mention::Now).collect()
    }

    /// Lets the peer send as much as was padding, which no reader takes: pairs of a stream and a number of bytes.
    pub(super) fn return_padding(&self, padding: Vec<(u32, u32)>) {
        if !padding.is_empty() {
            self.0.updates.borrow_mut().extend(padding);
            self.0.wake();
        }
    }

    /// Has the task of `cx` woken when there is something to tell the peer.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut driver = self.0.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }

    /// Waits until the window of the connection has to change, and returns the new one. What waits for readers is made
    /// up for, so it takes no room from the tunnel's other streams.
    pub fn changed(&self) -> impl Future<Output = u32> {
        poll_fn(|cx| self.poll_changed(cx))
    }

    /// Polls for what [`Windows::changed`] waits for.
    pub(super) fn poll_changed(&self, cx: &Context<'_>) -> Poll<u32> {
        self.register(cx);
        if !self.0.is_to_move() {
            return Poll::Pending;
        }
        self.0.made_up.set(self.0.held.get());
        Poll::Ready(self.connection())
    }

    /// The window of the connection.
    pub(super) fn connection(&self) -> u32 {
        let window = self.0.connection.saturating_add(self.0.made_up.get());
        u32::try_from(window).unwrap_or(LARGEST).min(LARGEST)
    }
}

impl fmt::Debug for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windows")
            .field("first", &self.0.first)
            .field("held", &self.0.held)
            .finish_non_exhaustive()
    }
}

// === impl TunnelWindows ===

impl TunnelWindows {
    /// Whether what waits has changed enough to move the window of the connection. Small amounts are made up for only
    /// once they are gone, at the latest.
    fn is_to_move(&self) -> bool {
        self.held.get().abs_diff(self.made_up.get()) > self.connection / MOVED_PART
    }

    fn hold(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        self.budget.hold(bytes);
        self.wake_to_move();
    }

    fn let_go(&self, bytes: usize) {
        self.held.set(self.held.get().saturating_sub(bytes));
        self.budget.let_go(bytes);
        self.wake_to_move();
    }

    /// Has the peer told that it may send `more` bytes on a stream.
    fn tell(&self, stream: u32, more: usize) {
        self.note(stream, more);
        self.wake();
    }

    /// Has the peer told the same when something goes out.
    fn note(&self, stream: u32, more: usize) {
        self.updates.borrow_mut().push((stream, u32::try_from(more).unwrap_or(LARGEST)));
    }

    fn wake_to_move(&self) {
        if self.is_to_move() {
            self.wake();
        }
    }

    fn wake(&self) {
        self.driver.borrow().iter().for_each(Waker::wake_by_ref);
    }
}

// === impl StreamWindow ===

impl StreamWindow {
    /// Counts received bytes.
    ///
    /// # Errors
    /// The peer has sent more than it may.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), PeerOverran> {
        self.unread += bytes;
        self.credit = self.credit.checked_sub(bytes).ok_or(PeerOverran)?;
        if self.rides && self.credit < self.loan + self.tunnel.first / 2 {
            self.rides = false;
            self.tunnel.wake();
        }
        Ok(())
    }

    /// Notes that the reader does not take what was received.
    pub(super) fn waits(&mut self) {
        if self.unread > self.held {
            self.tunnel.hold(self.unread - self.held);
            self.held = self.unread;
            self.waited = true;
        }
    }

    /// Counts bytes that the reader has taken. The peer may send as many more, unless the window shrinks, or it will
    /// send nothing more (`ended`).
    pub(super) fn taken(&mut self, bytes: usize, ended: bool) {
        self.unread = self.unread.saturating_sub(bytes);
        if self.held > self.unread {
            self.tunnel.let_go(self.held - self.unread);
            self.held = self.unread;
        }
        if ended || self.owed() < self.window() / 2 {
            return;
        }
        self.adapt();
        let owed = self.owed();
        if owed > 0 {
            self.credit += owed;
            self.tunnel.tell(self.stream, owed);
        }
    }

    fn window(&self) -> usize {
        self.tunnel.first + self.loan
    }

    /// What the peer may send and has not been told yet.
    fn owed(&self) -> usize {
        self.window().saturating_sub(self.credit + self.unread)
    }

    /// Fits the window to how the reader reads and to what the budget has.
    fn adapt(&mut self) {
        let now = (self.tunnel.now)();
        let took = now.saturating_duration_since(self.told);
        let waited = std::mem::take(&mut self.waited);
        self.told = now;
        let want = if took > SLOW {
            self.loan / 2
        } else if took <= if waited { QUICK_THOUGH_WAITED } else { QUICK } {
            (2 * self.window()).min(self.tunnel.most) - self.tunnel.first
        } else {
            self.loan
        };
        if want > 0 || self.loan > 0 {
            self.loan = self.tunnel.budget.lend(self.loan, want);
        }
    }
}

impl Drop for StreamWindow {
    fn drop(&mut self) {
        let tunnel = &self.tunnel;
        tunnel.updates.borrow_mut().retain(|(stream, _)| *stream != self.stream);
        if self.loan > 0 {
            tunnel.budget.give_back(self.loan);
        }
        if self.held > 0 {
            tunnel.let_go(self.held);
        }
        tunnel.budget.stream(false);
    }
}

impl fmt::Debug for StreamWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWindow")
            .field("loan", &self.loan)
            .field("credit", &self.credit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
