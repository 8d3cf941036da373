//! A profile of processor time: the kernel interrupts whichever thread is running, and the thread notes where it is.
//!
//! The interrupt is SIGPROF, by setitimer(2) with ITIMER_PROF. Its handler writes to a ring of samples and takes neither
//! locks nor memory. The taker of the profile empties the ring from time to time.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io, mem, ptr,
    sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::stack::{self, STACK_DEPTH};
use crate::sys::cputime;

/// Limit: samples of a processor profile that wait to be counted: 1024; past it: the sample is lost, and the profile says
/// how many were.
const RING_SLOTS: usize = 1024;
/// How often the ring has to be emptied. The kernel interrupts a thread at most once for each of its ticks, 1 to 10 ms.
/// Limit: time between two looks at the samples of a processor profile: 20 ms; past it: the samples are counted.
pub(crate) const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// Limit: different stacks of a processor profile: 16384; past it: the sample is lost, and the profile says how many were.
const MAX_STACKS: usize = 16_384;
/// Limit: looks, 1 ms apart, whether handlers have left the ring of a processor profile: 1000; past it: the ring stays in
/// memory.
const LEAVE_LOOKS: u32 = 1000;

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const FULL: u8 = 2;

/// Whether a profile is under way: there is one timer a process.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The ring of the profile that is under way.
static RING: AtomicPtr<Ring> = AtomicPtr::new(ptr::null_mut());
/// Threads that are in the handler.
static WITHIN: AtomicUsize = AtomicUsize::new(0);

/// There is no profile of processor time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpuProfileError {
    /// There is one timer a process.
    #[error("a processor profile is being taken already: try again when it is done")]
    Busy,
    /// The kernel refuses the timer or the handler.
    #[error("the kernel refuses a processor profile: {0}")]
    Kernel(io::Error),
}

/// A profile that is being taken. The timer stops when this is dropped.
#[derive(Debug)]
pub(crate) struct CpuProfiler {
    ring: *mut Ring,
    counts: HashMap<(ThreadName, Box<[usize]>), u64>,
    lost: u64,
    since: (SystemTime, Instant, Duration),
}

/// What a profile found.
#[derive(Debug)]
pub(crate) struct CpuProfile {
    /// Each stack and thread with its samples.
    pub(crate) stacks: Vec<SampledStack>,
    /// Samples for which there was no room.
    pub(crate) lost: u64,
    /// When the profile was begun, and how long it took.
    pub(crate) taken: (SystemTime, Duration),
    /// The processor time that the process used meanwhile.
    pub(crate) used: Duration,
}

/// A stack in which a thread was interrupted.
#[derive(Debug)]
pub(crate) struct SampledStack {
    /// The name of the thread.
    pub(crate) thread: String,
    /// Addresses within the instructions that were under way, the innermost first.
    pub(crate) addresses: Box<[usize]>,
    /// How often.
    pub(crate) count: u64,
}

/// The name of a thread as the kernel has it: 16 bytes, of which the last is 0.
type ThreadName = [u64; 2];

/// Samples on their way from the handler.
#[derive(Debug)]
struct Ring {
    slots: Box<[Slot]>,
    next: AtomicUsize,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Slot {
    state: AtomicU8,
    thread: [AtomicU64; 2],
    depth: AtomicUsize,
    addresses: [AtomicUsize; STACK_DEPTH],
}

// SAFETY: the pointer is to a ring, whose parts are atomic, and which is freed by whoever holds this, once.
unsafe impl Send for CpuProfiler {}

// === impl CpuProfiler ===

impl CpuProfiler {
    /// Starts: for each `1 / frequency` seconds of processor time a thread is interrupted.
    ///
    /// # Errors
    /// See [`CpuProfileError`].
    pub(crate) fn start(frequency: u32) -> Result<Self, CpuProfileError> {
        if TAKEN.swap(true, SeqCst) {
            return Err(CpuProfileError::Busy);
        }
        stack::prepare();
        let ring = Box::into_raw(Box::new(Ring::new()));
        RING.store(ring, SeqCst);
        let since = (SystemTime::now(), Instant::now(), cputime::of_this_process());
        // From here on, dropping it ends the profile.
        let profiler = Self { ring, counts: HashMap::new(), lost: 0, since };
        let period = Duration::from_secs(1) / frequency.max(1);
        catch_interrupts().and_then(|()| interrupt_every(period)).map_err(CpuProfileError::Kernel)?;
        Ok(profiler)
    }

    /// Counts the samples that are there. Has to be called each [`DRAIN_INTERVAL`].
    pub(crate) fn drain(&mut self) {
        // SAFETY: the ring is freed when this is dropped, and not before.
        let ring = unsafe { &*self.ring };
        for slot in ring.slots.iter().filter(|slot| slot.state.load(Acquire) == FULL) {
            let thread = slot.thread.each_ref().map(|half| half.load(Relaxed));
            let depth = slot.depth.load(Relaxed);
            let addresses = slot.addresses.iter().take(depth).map(|address| address.load(Relaxed)).collect();
            slot.state.store(EMPTY, Release);
            let stack = (thread, addresses);
            if let Some(count) = self.counts.get_mut(&stack) {
                *count += 1;
            } else if self.counts.len() < MAX_STACKS {
                self.counts.insert(stack, 1);
            } else {
                self.lost += 1;
            }
        }
        self.lost += ring.lost.swap(0, Relaxed);
    }

    /// Ends the profile.
    pub(crate) fn finish(mut self) -> CpuProfile {
        let _ = interrupt_every(Duration::ZERO);
        self.drain();
        let (taken, begun, used) = self.since;
        let counts = mem::take(&mut self.counts).into_iter();
        let stacks = counts.map(|((thread, addresses), count)| SampledStack {
            thread: text(thread),
            addresses,
            count,
        });
        CpuProfile {
            stacks: stacks.collect(),
            lost: self.lost,
            taken: (taken, begun.elapsed()),
            used: cputime::of_this_process().saturating_sub(used),
        }
    }
}

impl Drop for CpuProfiler {
    fn drop(&mut self) {
        // The handler stays: without a ring it does nothing, and a late signal meets it.
        let _ = interrupt_every(Duration::ZERO);
        RING.store(ptr::null_mut(), SeqCst);
        let mut looks = 0;
        while WITHIN.load(SeqCst) > 0 && looks < LEAVE_LOOKS {
            thread::park_timeout(Duration::from_millis(1));
            looks += 1;
        }
        if looks < LEAVE_LOOKS {
            // SAFETY: the pointer is of `Box::into_raw` and is used no more: no handler had it when `WITHIN` was 0, and
            // a handler that came later found no ring.
            drop(unsafe { Box::from_raw(self.ring) });
        }
        TAKEN.store(false, SeqCst);
    }
}

// === impl Ring ===

impl Ring {
    fn new() -> Self {
        let slots = (0..RING_SLOTS).map(|_| Slot::new()).collect();
        Self { slots, next: AtomicUsize::new(0), lost: AtomicU64::new(0) }
    }

    /// Notes where the calling thread is. `interrupted` is the address of the instruction before which the thread was
    /// interrupted. Called by a signal handler.
    fn note(&self, interrupted: usize) {
        let next = self.next.fetch_add(1, Relaxed) % RING_SLOTS;
        let free = |slot: &&Slot| slot.state.compare_exchange(EMPTY, WRITING, Acquire, Relaxed).is_ok();
        match self.slots.get(next).filter(free) {
            Some(slot) => slot.fill(interrupted),
            None => drop(self.lost.fetch_add(1, Relaxed)),
        }
    }
}

// === impl Slot ===

impl Slot {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            thread: [const { AtomicU64::new(0) }; 2],
            depth: AtomicUsize::new(0),
            addresses: [const { AtomicUsize::new(0) }; STACK_DEPTH],
        }
    }

    fn fill(&self, interrupted: usize) {
        let (mut depth, mut walked, mut found) = (0, 0, false);
        stack::walk(|address| {
            walked += 1;
            // The innermost functions are those of the handler.
            found |= address == interrupted;
            // Callers go on after their call: the call itself is before that.
            let within = if address == interrupted { address } else { address.wrapping_sub(1) };
            if found && let Some(place) = self.addresses.get(depth) {
                place.store(within, Relaxed);
                depth += 1;
            }
            depth < STACK_DEPTH && walked < STACK_DEPTH * 2
        });
        if depth == 0
            && let Some(place) = self.addresses.first()
        {
            place.store(interrupted, Relaxed);
            depth = 1;
        }
        self.depth.store(depth, Relaxed);
        for (half, name) in self.thread.iter().zip(thread_name()) {
            half.store(name, Relaxed);
        }
        self.state.store(FULL, Release);
    }
}

/// Handles SIGPROF on whichever thread was running.
extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the place of the calling thread's errno is valid for as long as the thread lives.
    let errno = unsafe { *libc::__errno_location() };
    WITHIN.fetch_add(1, SeqCst);
    // SAFETY: a ring is freed once it is out of `RING` and no thread is within the handler.
    if let Some(ring) = unsafe { RING.load(SeqCst).as_ref() } {
        // SAFETY: the kernel hands the handler of SA_SIGINFO the interrupted thread's context.
        ring.note(address_of(unsafe { &*context.cast() }));
    }
    WITHIN.fetch_sub(1, SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

#[cfg(target_arch = "x86_64")]
fn address_of(context: &libc::ucontext_t) -> usize {
    let register = context.uc_mcontext.gregs.get(libc::REG_RIP.cast_unsigned() as usize);
    register.map_or(0, |address| address.cast_unsigned() as usize)
}

#[cfg(target_arch = "aarch64")]
fn address_of(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// Handles SIGPROF from now on. System calls that were interrupted go on, except those that wait for events.
fn catch_interrupts() -> io::Result<()> {
    // SAFETY: all zeroes is a valid value: an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = interrupted as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the structure lives through the call, which only reads it. The handler touches atomics only.
    match unsafe { libc::sigaction(libc::SIGPROF, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has a thread interrupted for each `period` of processor time that the process uses; for zero, no more.
fn interrupt_every(period: Duration) -> io::Result<()> {
    let microseconds = libc::suseconds_t::from(period.subsec_micros());
    let each = libc::timeval { tv_sec: period.as_secs().cast_signed(), tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: the structure lives through the call, which only reads it.
    let done = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The name of the calling thread. `/proc` may have other numbers for threads than the kernel has here.
fn thread_name() -> ThreadName {
    let mut name = [0; 2];
    // SAFETY: the call writes 16 bytes, which the variable has.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

fn text(name: ThreadName) -> String {
    let bytes = name.map(u64::to_ne_bytes);
    let name = bytes.iter().flatten().copied().take_while(|byte| *byte != 0).collect::<Vec<u8>>();
    String::from_utf8_lossy(&name).into_owned()
}
