//! Memory that a burst has left with the allocator.

use std::time::Duration;

/// How often a thread looks whether it has become quiet.
pub const LOOK: Duration = Duration::from_secs(5);

/// Has a thread's allocator give back what it keeps, once after each time connections came and all went again.
///
/// The allocator gives pages back only as it is used, so a thread without work would show its last burst for ever.
/// It is never asked while a connection is open: nobody waits for it.
#[derive(Debug, Default)]
pub struct Tidy {
    seen: u64,
    tidied: u64,
}

/// Has the calling thread's allocator give back what nobody uses.
pub fn give_back() {
    // SAFETY: it only touches the allocator's own state of this thread, and what no thread uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

// === impl Tidy ===

impl Tidy {
    /// One look: `placed` counts what ever came, `open` what is there now. Whether memory was given back.
    pub fn look(&mut self, placed: u64, open: usize) -> bool {
        let quiet = open == 0 && placed == self.seen && placed != self.tidied;
        self.seen = placed;
        if quiet {
            self.tidied = placed;
            give_back();
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_a_burst_and_never_under_a_connection() {
        let mut tidy = Tidy::default();
        let looks = [(0, 0), (9, 3), (9, 3), (9, 0), (9, 0), (12, 0), (12, 0), (12, 0)];
        let given = looks.map(|(placed, open)| tidy.look(placed, open));
        assert_eq!(given, [false, false, false, true, false, false, true, false]);
    }
}
