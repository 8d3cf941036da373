//! Memory that nobody uses any more: what a burst has left with the allocator, and code that has done its work.

use std::{ffi::c_void, fs, ops::Range, ptr, time::Duration};

/// How often a thread looks whether it has become quiet.
/// Limit: time between two looks at the memory of a quiet shard: 5 s; past it: memory is given back to the kernel once
/// the shard's connections are gone.
pub(crate) const MEMORY_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Has a thread's allocator give back what it keeps, once after each time connections came and all went again.
///
/// The allocator gives pages back only as it is used, so a thread without work would show its last burst for ever.
/// It is never asked while a connection is open: nobody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Tidy {
    seen: u64,
    tidied: u64,
}

/// Has the calling thread's allocator give back what nobody uses.
pub(crate) fn give_back() {
    // SAFETY: it only touches the allocator's own state of this thread, and what no thread uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Takes the pages of the program and its libraries out of this process's page table: most of what a start runs is
/// never run again. They stay in the kernel's page cache, and those that are used come back from there without being
/// read, each with its neighbours. Where it cannot be done, nothing has changed.
pub(crate) fn give_back_code() {
    let smaps = match fs::read_to_string("/proc/self/smaps") {
        Ok(smaps) => smaps,
        Err(error) => return tracing::debug!(target: "memory", %error, "cannot see what is mapped"),
    };
    for range in unchanged(&smaps) {
        let start = ptr::without_provenance_mut::<c_void>(range.start);
        // SAFETY: the range is a private mapping of a file in which this process has no page of its own, and which it
        // cannot write to: what is taken out is read from the same file as before when it is next used. A program and
        // its libraries are mapped for as long as the process lives.
        unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    }
}

/// Mappings in `smaps` (proc(5)) that hold what their file holds, and nothing else.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let (mut found, mut under_way) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(range) = file_mapping(line) {
            under_way = range;
        } else if line.strip_prefix("Anonymous:").is_some_and(|rest| rest.trim() == "0 kB") {
            found.extend(under_way.take());
        }
    }
    found
}

/// Whether a line begins a mapping; where that is, if it is a private one of a file that cannot be written to.
fn file_mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    let (mode, path) = (words.next()?, words.nth(3));
    let is_file = path.is_some_and(|path| path.starts_with('/'));
    Some(Some(range).filter(|_| is_file && matches!(mode, "r--p" | "r-xp")))
}

// === impl Tidy ===

impl Tidy {
    /// One look: `placed` counts what ever came, `open` what is there now. Whether memory was given back.
    pub(crate) fn look(&mut self, placed: u64, open: usize) -> bool {
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
mod tests;
