//! Sets of live connections that can be listed, cut, and waited for.
//!
//! A connection is a task, not an actor: a connection costs its set one allocation and one lock that only its own
//! shard takes. The owner of a set can walk the set (policy), cut its connections (policy, drain deadline) and wait
//! until the set is empty (drain).

use std::{
    fmt,
    num::ParseIntError,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use slab::Slab;

use super::{
    busy::Timed,
    sync::{AtomicU16, AtomicWaker, Mutex, Notify},
};

/// The reason why a connection was cut. The user of the set gives the number its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CutReason(pub u8);

/// The id of a connection in its set. No other connection of the set ever has the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnId {
    /// The shard that the connection was admitted on.
    pub(crate) shard: usize,
    /// The number of the connection among those of the shard; the first is 1.
    pub(crate) number: u64,
}

/// The error of a set that does not admit connections because the set drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no new connection is admitted")]
pub(crate) struct Closed;

/// A set of live connections, each with a `T`. Clones share the set.
pub(crate) struct ConnSet<T>(Arc<[Arc<ShardConns<T>>]>);

/// A connection in a set.
///
/// [`ConnSet::admit`] returns the owner: a drop of the owner removes the connection from the set. Clones, and the
/// values that [`ConnSet::for_each`] passes, are handles: a handle does not keep the connection in the set.
pub(crate) struct Conn<T> {
    entry: Arc<Entry<T>>,
    owner: bool,
}

pin_project! {
    /// A future that ends early when its connection is cut; see [`Conn::guard`].
    #[must_use = "futures do nothing unless polled"]
    pub(crate) struct Guarded<'a, F> {
        #[pin]
        future: Option<F>,
        cut: &'a Cut,
        busy: &'a AtomicU64,
        registered: Option<Waker>,
    }
}

/// One shard's part of a set. The part is aligned so that shards do not share cache lines.
#[repr(align(128))]
struct ShardConns<T> {
    index: usize,
    members: Mutex<Members<T>>,
    emptied: Notify,
    /// What connections that have ended left behind.
    left: [AtomicU64; 2],
    /// The nanoseconds that guarded and timed polls took, as far as they are known.
    busy: AtomicU64,
}

struct Members<T> {
    open: bool,
    /// The number of connections that were ever admitted.
    admitted: u64,
    conns: Slab<Arc<Entry<T>>>,
}

struct Entry<T> {
    info: T,
    cut: Cut,
    shard: Arc<ShardConns<T>>,
    key: usize,
    number: u64,
    since: Instant,
}

/// The cut of a connection, and the wish to have the connection stand still. The first caller that cuts sets the reason.
struct Cut {
    /// The reason plus one, or 0 while the connection is not cut, in the bits of [`REASON`]; and the flags.
    state: AtomicU16,
    waker: AtomicWaker,
}

/// The bits of the reason.
/// No limit: bits of a state.
const REASON: u16 = 0x01ff;
/// Whether the connection can be had to stand still.
/// No limit: a bit of a state.
const MOVABLE: u16 = 0x8000;
/// Whether the connection is to stand still.
/// No limit: a bit of a state.
const WANTED: u16 = 0x4000;
/// Whether a wish has come and gone, which may have used up the waker.
/// No limit: a bit of a state.
const WISHED: u16 = 0x2000;

// === impl ConnSet ===

impl<T> Clone for ConnSet<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> ConnSet<T> {
    /// Makes an empty set that admits connections. `shards`: the number of shards; 0 counts as 1.
    pub(crate) fn new(shards: usize) -> Self {
        let shard = |index| {
            let members = Mutex::new(Members { open: true, admitted: 0, conns: Slab::new() });
            let (left, busy) = (Default::default(), AtomicU64::new(0));
            Arc::new(ShardConns { index, members, emptied: Notify::new(), left, busy })
        };
        Self((0..shards.max(1)).map(shard).collect())
    }

    /// Admits a connection. `shard`: the index of the caller's shard, taken modulo the number of shards.
    ///
    /// # Errors
    /// [`Closed`] after [`ConnSet::close_admission`].
    pub(crate) fn admit(&self, shard: usize, info: T) -> Result<Conn<T>, Closed> {
        let shard = self.0.get(shard % self.0.len()).ok_or(Closed)?;
        let mut members = shard.members.lock();
        if !members.open {
            return Err(Closed);
        }
        members.admitted += 1;
        let (number, since) = (members.admitted, Instant::now());
        let vacant = members.conns.vacant_entry();
        let cut = Cut { state: AtomicU16::new(0), waker: AtomicWaker::new() };
        let entry = Arc::new(Entry { info, cut, shard: shard.clone(), key: vacant.key(), number, since });
        vacant.insert(entry.clone());
        Ok(Conn { entry, owner: true })
    }

    /// The number of connections that were ever admitted.
    pub(crate) fn admitted(&self) -> u64 {
        self.0.iter().map(|shard| shard.members.lock().admitted).sum()
    }

    /// The sums of what connections that have ended left behind by [`Conn::leave_behind`].
    pub(crate) fn left_behind(&self) -> (u64, u64) {
        let sum = |at: usize| {
            let of = |shard: &Arc<ShardConns<T>>| {
                shard.left.get(at).map_or(0, |left| left.load(Ordering::Relaxed))
            };
            self.0.iter().map(of).sum()
        };
        (sum(0), sum(1))
    }

    /// The processor time of the set's connections in guarded futures and timed polls. The time is reckoned from a
    /// few polls, and of futures within each other the outer one counts.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_nanos(self.0.iter().map(|shard| shard.busy.load(Ordering::Relaxed)).sum())
    }

    /// The live connection of an id.
    pub(crate) fn find(&self, id: ConnId) -> Option<Conn<T>> {
        let members = self.0.get(id.shard)?.members.lock();
        let (_, entry) = members.conns.iter().find(|(_, entry)| entry.number == id.number)?;
        Some(Conn { entry: entry.clone(), owner: false })
    }

    /// The number of live connections.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.members.lock().conns.len()).sum()
    }

    /// Whether no connection is live.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|shard| shard.members.lock().conns.is_empty())
    }

    /// Calls `f` with a handle of each connection, shard by shard. No lock is held during the call: the connection
    /// may have ended.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Conn<T>)) {
        for shard in self.0.iter() {
            let handle = |(_, entry): (usize, &Arc<Entry<T>>)| Conn { entry: entry.clone(), owner: false };
            let conns: Vec<Conn<T>> = shard.members.lock().conns.iter().map(handle).collect();
            conns.iter().for_each(&mut f);
        }
    }

    /// Admits no more connections; live connections go on.
    pub(crate) fn close_admission(&self) {
        self.set_open(false);
    }

    /// Admits connections again.
    pub(crate) fn reopen(&self) {
        self.set_open(true);
    }

    /// Cuts every live connection. The call does not close admission.
    pub(crate) fn cut_all(&self, why: CutReason) {
        self.for_each(|conn| conn.cut(why));
    }

    /// Waits until the set is empty. Close admission first, or the set may never be empty.
    pub(crate) async fn emptied(&self) {
        while !self.is_empty() {
            for shard in self.0.iter() {
                let emptied = shard.emptied.notified();
                if !shard.members.lock().conns.is_empty() {
                    emptied.await;
                }
            }
        }
    }

    fn set_open(&self, open: bool) {
        for shard in self.0.iter() {
            shard.members.lock().open = open;
        }
    }
}

impl<T> fmt::Debug for ConnSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnSet").field("lanes", &self.0.len()).finish_non_exhaustive()
    }
}

// === impl Conn ===

impl<T> Conn<T> {
    /// The value that [`ConnSet::admit`] was given with the connection.
    pub(crate) fn info(&self) -> &T {
        &self.entry.info
    }

    /// The id of the connection.
    pub(crate) fn id(&self) -> ConnId {
        ConnId { shard: self.entry.shard.index, number: self.entry.number }
    }

    /// How long ago the connection was admitted.
    pub(crate) fn age(&self) -> Duration {
        self.entry.since.elapsed()
    }

    /// Adds numbers to the sums of the set's connections that have ended. Only the shard of the connection writes to its
    /// sums.
    pub(crate) fn leave_behind(&self, numbers: [u64; 2]) {
        for (left, number) in self.entry.shard.left.iter().zip(numbers) {
            left.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Cuts the connection: its guarded future ends with `why`. A later cut does not change the reason.
    pub(crate) fn cut(&self, why: CutReason) {
        let cut = &self.entry.cut;
        let code = u16::from(why.0) + 1;
        let first = |state| (state & REASON == 0).then_some(state | code);
        if cut.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, first).is_ok() {
            cut.waker.wake();
        }
    }

    /// Whether the connection can be had to stand still.
    pub(crate) fn is_movable(&self) -> bool {
        self.entry.cut.state.load(Ordering::Acquire) & MOVABLE != 0
    }

    /// Has the connection stand still, once it can.
    pub(crate) fn want(&self) {
        self.entry.cut.state.fetch_or(WANTED, Ordering::AcqRel);
        self.entry.cut.waker.wake();
    }

    /// Takes back [`Conn::want`]. The wish may have used up the waker, so the task registers again at its next poll.
    pub(crate) fn let_go(&self) {
        let gone = |state| Some((state & !WANTED) | WISHED);
        // The closure always has a value.
        let _ = self.entry.cut.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, gone);
    }

    /// The reason of the cut, if the connection is cut.
    pub(crate) fn cut_reason(&self) -> Option<CutReason> {
        self.entry.cut.reason()
    }

    /// Runs `future` until `future` ends or the connection is cut. A cut drops `future` and returns the reason.
    ///
    /// Poll one guarded future of a connection at a time: a cut wakes only one. The guard costs one atomic load a
    /// poll, and times a few polls.
    pub(crate) fn guard<F: Future>(&self, future: F) -> Guarded<'_, F> {
        let Entry { cut, shard, .. } = &*self.entry;
        Guarded { future: Some(future), cut, busy: &shard.busy, registered: None }
    }

    /// Times a poll of the connection that no guard makes, until the value is dropped.
    pub(crate) fn timed(&self) -> Timed<'_> {
        Timed::begin(&self.entry.shard.busy)
    }

    /// Says whether the connection can be had to stand still. Its task looks at [`Conn::is_wanted`] then.
    pub(crate) fn set_movable(&self, movable: bool) {
        let state = &self.entry.cut.state;
        if movable {
            state.fetch_or(MOVABLE, Ordering::AcqRel);
        } else {
            state.fetch_and(!MOVABLE, Ordering::AcqRel);
        }
    }

    /// Whether the connection is to stand still.
    pub(crate) fn is_wanted(&self) -> bool {
        self.entry.cut.state.load(Ordering::Acquire) & WANTED != 0
    }

    /// Whether a wish may have used up the waker that is registered.
    pub(crate) fn needs_waker(&self) -> bool {
        self.entry.cut.state.load(Ordering::Acquire) & (WANTED | WISHED) != 0
    }

    /// Has `waker` woken when the connection is cut or is to stand still, in the place of an earlier waker. Register before
    /// looking, or a change in between wakes no task.
    pub(crate) fn register(&self, waker: &Waker) {
        self.entry.cut.state.fetch_and(!WISHED, Ordering::AcqRel);
        self.entry.cut.waker.register(waker);
    }
}

impl<T> Clone for Conn<T> {
    /// Makes a handle, which does not keep the connection in its set.
    fn clone(&self) -> Self {
        Self { entry: self.entry.clone(), owner: false }
    }
}

impl<T> Drop for Conn<T> {
    fn drop(&mut self) {
        if !self.owner {
            return;
        }
        let shard = &self.entry.shard;
        let mut members = shard.members.lock();
        let removed = members.conns.try_remove(self.entry.key);
        let empty = members.conns.is_empty();
        drop(members);
        drop(removed);
        if empty {
            shard.emptied.notify_waiters();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Conn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("info", self.info())
            .field("cut", &self.cut_reason())
            .finish_non_exhaustive()
    }
}

// === impl ConnId ===

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.number)
    }
}

impl FromStr for ConnId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (shard, number) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { shard: shard.parse()?, number: number.parse()? })
    }
}

// === impl Cut ===

impl Cut {
    fn reason(&self) -> Option<CutReason> {
        let code = (self.state.load(Ordering::Acquire) & REASON).checked_sub(1)?;
        u8::try_from(code).ok().map(CutReason)
    }
}

// === impl Guarded ===

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Result<F::Output, CutReason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The waker is registered before the reason is read, or a cut in between would wake no task.
        if !this.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            this.cut.waker.register(cx.waker());
            *this.registered = Some(cx.waker().clone());
        }
        if let Some(why) = this.cut.reason() {
            this.future.set(None);
            return Poll::Ready(Err(why));
        }
        let _timed = Timed::begin(this.busy);
        match this.future.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx).map(Ok),
            None => Poll::Pending, // the future was polled after the cut: nothing is left to wait for
        }
    }
}

#[cfg(test)]
mod tests;
