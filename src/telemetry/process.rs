//! The file descriptors of this process, as `/proc` has them.

use std::fs;

/// The number of open file descriptors and their limit; `None` if `/proc` does not tell.
pub(super) fn file_descriptors() -> (Option<u64>, Option<u64>) {
    // The read of the directory itself holds one descriptor.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64);
    let limit = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(soft_limit);
    (open, limit)
}

/// The soft limit in the line "Max open files"; `unlimited` gives none.
fn soft_limit(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
