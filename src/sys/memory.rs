//! Unused memory is given back to the kernel: free memory of the allocator after a burst, and code pages.

use std::{ffi::c_void, fs, ops::Range, ptr, time::Duration};

/// The time between two checks of a thread whether it has become quiet.
/// Limit: time between two looks at the memory of a quiet shard: 5 s; past it: memory is given back to the kernel once
/// the shard's connections are gone.
pub(crate) const MEMORY_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Gives a thread's free memory back once after each time that connections came and all connections have ended.
///
/// The allocator gives pages back only when it is used, so an idle thread would keep the pages of its last burst for
/// ever. Memory is given back only while no connection is open, so no connection waits for the allocator.
#[derive(Debug, Default)]
pub(crate) struct Tidy {
    seen: u64,
    tidied: u64,
}

/// The memory of this process that is resident, in bytes. `None` if `/proc` cannot be read.
pub(crate) fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: the call reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}

/// Makes the calling thread's allocator give unused memory back.
pub(crate) fn give_back() {
    // SAFETY: the call touches only the allocator's state of this thread, and memory that no thread uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Removes the pages of the program and its libraries from this process's page table: most code of a start never runs
/// again. The pages stay in the kernel's page cache. A page that is used again returns from the cache, with its
/// neighbours and without a read of the file. If the removal fails, nothing has changed.
pub(crate) fn give_back_code() {
    let smaps = match fs::read_to_string("/proc/self/smaps") {
        Ok(smaps) => smaps,
        Err(error) => return tracing::debug!(target: "memory", %error, "cannot see what is mapped"),
    };
    for range in unchanged(&smaps) {
        let start = ptr::without_provenance_mut::<c_void>(range.start);
        // SAFETY: the range is a private mapping of a file in which this process has no page of its own, and which
        // this process cannot write to. A removed page is read from the same file when the page is next used. A
        // program and its libraries are mapped for as long as the process lives.
        unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
    }
}

/// The mappings in `smaps` (proc(5)) whose pages all equal the pages of their file.
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

/// Parses a line that begins a mapping; `None` for other lines. The inner value is the range of a private read-only
/// mapping of a file, or `None` for another mapping.
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
    /// Checks the thread once. `placed`: all connections and tunnels so far; `open`: the live connections. Returns
    /// whether memory was given back.
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
