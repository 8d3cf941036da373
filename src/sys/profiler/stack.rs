//! The addresses of the functions that the calling thread is in.

/// Limit: functions of a stack in a profile: 128; past it: the outer ones are left out.
pub(super) const STACK_DEPTH: usize = 128;

/// Walks the calling thread's stack from the innermost function outwards. `take` gets the address at which each function
/// goes on, and says whether to go on.
///
/// The walk takes no lock and no memory, so signal handlers may call it. [`prepare`] has to have been called before.
pub(super) fn walk(mut take: impl FnMut(usize) -> bool) {
    // SAFETY: the unwinder of this system reads tables that do not change, and has no state that calls share.
    unsafe { backtrace::trace_unsynchronized(|frame| take(frame.ip().addr())) };
}

/// Has the unwinder set itself up, which happens once and with a lock.
pub(super) fn prepare() {
    walk(|_| true);
}
