//! The budget of a node for bytes that wait for readers that do not read (docs/operations.md).
//!
//! Each stream has a small first window, the smaller the more streams there are. A stream that begins is lent the rest of
//! its whole window while little is lent. A stream whose reader reads is lent more, until what is lent reaches seven
//! twelfths of the budget. What is left backs the first windows.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The largest first window of a stream.
/// Limit: first window of a stream: 64 KiB; past it: the window grows once the reader has read.
const MOST_FIRST: usize = 64 * 1024;
/// The smallest first window of a stream.
/// No limit: a lower bound, so that many streams still move bytes.
const LEAST_FIRST: usize = 2 * 1024;
/// The part of the budget that the streams of a new tunnel share with those that there are, as a divisor.
/// Limit: first window of a stream: a 16th of WARREN_BUFFER_BUDGET by the number of streams, at least 2 KiB; past it: the
/// window grows once the reader has read.
const FIRST_PART: usize = 16;
/// The part of the budget that is lent to whoever asks first, as a divisor.
/// Limit: what is lent to windows: half of WARREN_BUFFER_BUDGET; past it: fair shares are lent.
const LENT_PART: usize = 2;
/// The part of the budget that is lent to streams before their readers have read, as a divisor. Peers such as Envoy drop
/// what the window does not let through when their application ends first.
/// Limit: what is lent to streams that begin: a quarter of WARREN_BUFFER_BUDGET; past it: they have their first windows.
const BEGIN_PART: usize = 4;
/// The part of what is free that one stream may have, as a divisor.
/// Limit: what is lent to a stream: a 32nd of what is free, or a fair share; past it: the window stays.
const FREE_PART: usize = 32;
/// The part of the budget that is lent in fair shares, as a divisor.
/// Limit: fair share of a stream: a twelfth of WARREN_BUFFER_BUDGET, or what is left of it, by the number of streams; past
/// it: the window stays.
const FAIR_PART: usize = 12;
/// The part of the budget that a shard borrows at a time, as a divisor.
/// Limit: unused loan of a shard: two 2048ths of the budget; past it: the shard gives the loan back.
const CHUNK_PART: usize = 2048;

/// The budget of the node.
#[derive(Debug)]
pub struct BufferBudget {
    limit: usize,
    /// Bytes that shards have borrowed.
    lent: AtomicUsize,
    shards: Box<[ShardPart]>,
}

/// What one shard uses of the budget. Only tasks of that shard write it, so it has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ShardPart {
    /// Borrowed bytes that no stream has.
    spare: AtomicUsize,
    /// Live streams.
    streams: AtomicUsize,
    /// Received bytes that wait for their readers.
    held: AtomicUsize,
}

/// The budget as one shard uses it.
#[derive(Clone, Debug)]
pub struct ShardBudget {
    node: Arc<BufferBudget>,
    shard: usize,
}

// === impl BufferBudget ===

impl BufferBudget {
    /// Makes a budget of `limit` bytes for so many shards.
    pub fn new(limit: usize, shards: usize) -> Arc<Self> {
        let shards = (0..shards.max(1)).map(|_| ShardPart::default()).collect();
        Arc::new(Self { limit, lent: AtomicUsize::new(0), shards })
    }

    /// The budget as a shard uses it.
    pub fn of(self: &Arc<Self>, shard: usize) -> ShardBudget {
        ShardBudget { node: self.clone(), shard: shard % self.shards.len().max(1) }
    }

    /// The bytes of the budget.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Received bytes that wait for their readers now.
    pub fn held(&self) -> usize {
        self.sum(|part| &part.held)
    }

    /// Bytes by which windows exceed the first ones.
    pub fn lent(&self) -> usize {
        self.lent.load(Relaxed).saturating_sub(self.sum(|part| &part.spare))
    }

    fn sum(&self, of: impl Fn(&ShardPart) -> &AtomicUsize) -> usize {
        self.shards.iter().map(|part| of(part).load(Relaxed)).sum()
    }

    fn streams(&self) -> usize {
        self.sum(|part| &part.streams).max(1)
    }

    /// The most that a stream that asks for `want` bytes beyond its first window may have.
    fn share(&self, want: usize) -> usize {
        let (half, lent) = (self.limit / LENT_PART, self.lent.load(Relaxed));
        let share = half.saturating_sub(lent) / FREE_PART;
        // All shards are asked only if the answer matters.
        if share >= want {
            return share;
        }
        let fair = (self.limit / FAIR_PART).saturating_sub(lent.saturating_sub(half)) / self.streams();
        share.max(fair)
    }

    /// The most that a stream that begins may have beyond its first window.
    fn share_to_begin(&self) -> usize {
        (self.limit / BEGIN_PART).saturating_sub(self.lent.load(Relaxed)) / FREE_PART
    }

    fn chunk(&self) -> usize {
        self.limit / CHUNK_PART
    }
}

// === impl ShardBudget ===

impl ShardBudget {
    fn part(&self) -> Option<&ShardPart> {
        self.node.shards.get(self.shard)
    }

    /// The first window of the streams of a new tunnel.
    pub fn first_window(&self) -> usize {
        (self.node.limit / FIRST_PART / self.node.streams()).clamp(LEAST_FIRST, MOST_FIRST)
    }

    /// Counts a stream in (`true`) or out.
    pub(super) fn stream(&self, lives: bool) {
        let Some(part) = self.part() else { return };
        if lives {
            part.streams.fetch_add(1, Relaxed);
        } else {
            part.streams.fetch_sub(1, Relaxed);
        }
    }

    /// Counts bytes that begin to wait for their reader.
    pub(super) fn hold(&self, bytes: usize) {
        if let Some(part) = self.part() {
            part.held.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts bytes that wait no more.
    pub(super) fn let_go(&self, bytes: usize) {
        if let Some(part) = self.part() {
            part.held.fetch_sub(bytes, Relaxed);
        }
    }

    /// What a stream that begins is lent, if it asks for `want`: nothing if that is less than a first window may have.
    /// It is taken from the budget.
    pub(super) fn lend_to_begin(&self, want: usize) -> usize {
        let loan = want.min(self.node.share_to_begin());
        if loan < want.min(MOST_FIRST) {
            return 0;
        }
        self.borrow(loan);
        loan
    }

    /// What a stream with `loan` bytes may have instead, if it asks for `want`: more, the same, or less while the budget
    /// is short. The difference is taken from the budget, or given back to it.
    pub(super) fn lend(&self, loan: usize, want: usize) -> usize {
        let share = self.node.share(want.max(loan));
        let now = if loan > share.saturating_mul(2) {
            // A stream near its share keeps its loan, so that not all loans change whenever one does.
            want.min(share)
        } else if want > loan {
            want.min(share).max(loan)
        } else {
            want
        };
        if now > loan {
            self.borrow(now - loan);
        } else if now < loan {
            self.give_back(loan - now);
        }
        now
    }

    fn borrow(&self, bytes: usize) {
        let Some(part) = self.part() else { return };
        if part.spare.fetch_update(Relaxed, Relaxed, |spare| spare.checked_sub(bytes)).is_err() {
            let chunk = self.node.chunk();
            let spare = part.spare.swap(chunk, Relaxed);
            self.node.lent.fetch_add((bytes + chunk).saturating_sub(spare), Relaxed);
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        let Some(part) = self.part() else { return };
        let (chunk, spare) = (self.node.chunk(), part.spare.fetch_add(bytes, Relaxed) + bytes);
        if spare > 2 * chunk {
            part.spare.fetch_sub(spare - chunk, Relaxed);
            self.node.lent.fetch_sub(spare - chunk, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
