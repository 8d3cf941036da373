//! A profile of the memory in use: of all allocations some are noted with their stacks, one for every 512 KiB by chance.
//!
//! [`SampledHeap`] wraps the allocator of the program. While profiling is off it reads one flag for each call. While it is
//! on, allocations that were made before are not in the profile.

#[cfg(test)]
mod tests;

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    collections::HashMap,
    hint::black_box,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU16, AtomicU64, Ordering,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::SystemTime,
};

use parking_lot::Mutex;

use super::stack;

/// The bytes that are allocated between two samples, in the mean.
/// Limit: distance of the samples of a heap profile: 512 KiB; past it: the allocation is noted with its stack.
pub(crate) const HEAP_PERIOD: usize = 512 * 1024;
/// Limit: allocations in a heap profile at a time: 32768; past it: further ones are left out, and the profile says how
/// many were.
const MAX_LIVE: usize = 32_768;
/// Limit: functions of a stack in a heap profile: 64; past it: the outer ones are left out.
const HEAP_STACK_DEPTH: usize = 64;
/// The counters of noted addresses.
/// No limit: a size.
const FILTER_COUNTERS: usize = 1 << 14;

/// Whether allocations are noted.
static ON: AtomicBool = AtomicBool::new(false);
/// Whether an allocation was seen while `ON` was set: whether the program's allocator is a [`SampledHeap`].
static SEEN: AtomicBool = AtomicBool::new(false);
/// What is noted, while it is on. Whoever has the lock is [`Within`].
static NOTED: Mutex<Option<Noted>> = Mutex::new(None);
/// How many noted addresses fall on each counter. What is freed looks here first.
static FILTER: [AtomicU16; FILTER_COUNTERS] = [const { AtomicU16::new(0) }; FILTER_COUNTERS];

thread_local! {
    static SAMPLING: Cell<Sampling> = const { Cell::new(Sampling { left: 0, chance: 0, within: false }) };
}

/// There is no heap profile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeapProfileError {
    /// The program has another allocator, as tests have.
    #[error("the allocator of this program cannot be profiled")]
    Unsupported,
    /// Nobody has activated it.
    #[error("heap profiling is not active: ask for /debug/pprof/heap/profiling?activate=true first")]
    Inactive,
}

/// An allocator whose allocations can be profiled.
#[derive(Debug)]
pub struct SampledHeap<A>(A);

/// The memory in use that was allocated since the profile was activated.
#[derive(Debug)]
pub(crate) struct HeapProfile {
    /// Each stack, the innermost address first, with the size of each of its allocations.
    pub(crate) stacks: HashMap<Arc<[usize]>, Vec<usize>>,
    /// Allocations that were left out.
    pub(crate) lost: u64,
    /// When the profile was activated.
    pub(crate) since: SystemTime,
}

struct Noted {
    live: HashMap<usize, (usize, Arc<[usize]>)>,
    lost: u64,
    since: SystemTime,
}

/// Where a thread is between two samples.
#[derive(Clone, Copy)]
struct Sampling {
    /// Bytes until the next sample.
    left: usize,
    /// The state of the random numbers, 0 before the first.
    chance: u64,
    /// The thread is noting, and its allocations are its own.
    within: bool,
}

/// While it lives, the calling thread's allocations are not noted.
struct Within;

/// Switches heap profiling. What was noted is forgotten when it is switched off.
///
/// # Errors
/// The program's allocator is no [`SampledHeap`].
pub(crate) fn activate(on: bool) -> Result<(), HeapProfileError> {
    if !on {
        end();
        return Ok(());
    }
    begin();
    drop(black_box(Vec::<u8>::with_capacity(black_box(1))));
    if SEEN.load(SeqCst) {
        return Ok(());
    }
    end();
    Err(HeapProfileError::Unsupported)
}

/// Whether heap profiling is on.
pub(crate) fn is_active() -> bool {
    ON.load(SeqCst)
}

/// The memory in use.
///
/// # Errors
/// Heap profiling is off.
pub(crate) fn profile() -> Result<HeapProfile, HeapProfileError> {
    let _within = Within::enter();
    let noted = NOTED.lock();
    let noted = noted.as_ref().ok_or(HeapProfileError::Inactive)?;
    let mut stacks: HashMap<_, Vec<usize>> = HashMap::new();
    for (size, stack) in noted.live.values() {
        stacks.entry(stack.clone()).or_default().push(*size);
    }
    Ok(HeapProfile { stacks, lost: noted.lost, since: noted.since })
}

fn begin() {
    let _within = Within::enter();
    stack::prepare();
    let mut noted = NOTED.lock();
    noted.get_or_insert_with(|| Noted { live: HashMap::new(), lost: 0, since: SystemTime::now() });
    ON.store(true, SeqCst);
}

fn end() {
    let _within = Within::enter();
    let mut noted = NOTED.lock();
    ON.store(false, SeqCst);
    for counter in &FILTER {
        counter.store(0, Relaxed);
    }
    let forgotten = noted.take();
    drop(noted);
    drop(forgotten);
}

/// An allocation was made. A few of them are noted.
#[cold]
fn allocated(address: usize, size: usize) {
    SEEN.store(true, Relaxed);
    let mut sampling = SAMPLING.get();
    if sampling.within || address == 0 {
        return;
    }
    if sampling.chance == 0 {
        sampling.seed();
    }
    let due = sampling.left <= size;
    sampling.left = if due { sampling.draw() } else { sampling.left - size };
    SAMPLING.set(sampling);
    if due {
        note(address, size);
    }
}

#[inline(never)]
fn note(address: usize, size: usize) {
    let _within = Within::enter();
    let mut stack = Vec::with_capacity(HEAP_STACK_DEPTH);
    stack::walk(|address| {
        // Callers go on after their call: the call itself is before that.
        stack.push(address.wrapping_sub(1));
        stack.len() < HEAP_STACK_DEPTH
    });
    let mut noted = NOTED.lock();
    let Some(noted) = noted.as_mut() else { return };
    if noted.live.len() >= MAX_LIVE {
        noted.lost += 1;
        return;
    }
    if noted.live.insert(address, (size, stack.into())).is_none() {
        counter(address).map(|counter| counter.fetch_add(1, Relaxed));
    }
}

/// Memory is about to be freed. Most of it was not noted.
#[cold]
fn released(address: usize) {
    if SAMPLING.get().within || counter(address).is_none_or(|counter| counter.load(Relaxed) == 0) {
        return;
    }
    let _within = Within::enter();
    let mut noted = NOTED.lock();
    let gone = noted.as_mut().and_then(|noted| noted.live.remove(&address));
    if gone.is_some() {
        counter(address).map(|counter| counter.fetch_sub(1, Relaxed));
    }
    drop(noted);
    drop(gone);
}

fn counter(address: usize) -> Option<&'static AtomicU16> {
    // The lowest bits are those of the alignment.
    let mixed = (address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
    FILTER.get((mixed >> (usize::BITS - FILTER_COUNTERS.ilog2())) & (FILTER_COUNTERS - 1))
}

// === impl SampledHeap ===

impl<A> SampledHeap<A> {
    /// Profiles what `allocator` allocates, once that is switched on.
    pub const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

// SAFETY: each call is passed on to the inner allocator as it is.
unsafe impl<A: GlobalAlloc> GlobalAlloc for SampledHeap<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of the inner call.
        let memory = unsafe { self.0.alloc(layout) };
        if ON.load(Relaxed) {
            allocated(memory.addr(), layout.size());
        }
        memory
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of the inner call.
        let memory = unsafe { self.0.alloc_zeroed(layout) };
        if ON.load(Relaxed) {
            allocated(memory.addr(), layout.size());
        }
        memory
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // Before it is freed: another thread may get the address at once.
        if ON.load(Relaxed) {
            released(memory.addr());
        }
        // SAFETY: the caller's promises are those of the inner call.
        unsafe { self.0.dealloc(memory, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let on = ON.load(Relaxed);
        if on {
            released(memory.addr());
        }
        // SAFETY: the caller's promises are those of the inner call.
        let moved = unsafe { self.0.realloc(memory, layout, size) };
        if on {
            allocated(moved.addr(), size);
        }
        moved
    }
}

// === impl Sampling ===

impl Sampling {
    /// Begins the random numbers of a thread, each with others.
    fn seed(&mut self) {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        let thread = THREADS.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        self.chance = (thread ^ 0xD1B5_4A32_D192_ED03) | 1;
        self.left = self.draw();
    }

    /// The bytes until the next sample: each byte is equally likely to be drawn.
    fn draw(&mut self) -> usize {
        // xorshift64*, of which the upper bits are good.
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let upper = self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        // In (0, 1].
        let uniform = (upper + 1) as f64 / (1_u64 << 53) as f64;
        // At most 37 periods.
        (-uniform.ln() * HEAP_PERIOD as f64) as usize + 1
    }
}

// === impl Within ===

impl Within {
    fn enter() -> Self {
        SAMPLING.set(Sampling { within: true, ..SAMPLING.get() });
        Self
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        SAMPLING.set(Sampling { within: false, ..SAMPLING.get() });
    }
}
