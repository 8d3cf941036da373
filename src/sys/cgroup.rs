//! The memory limit of this process's control group (cgroups(7)), and the memory of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The control groups of this process, a line each.
const OWN_GROUPS: &str = "/proc/self/cgroup";
/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// A limit of version 1 from which on there is none. The kernel says the largest number of whole pages.
/// No limit: a word of the kernel.
const UNLIMITED: u64 = 1 << 62;

/// The smallest memory limit of this process's control group and those above it, in bytes. `None`: there is no limit, or
/// none that can be read.
pub fn memory_limit() -> Option<u64> {
    limit_below(Path::new(MOUNT), &fs::read_to_string(OWN_GROUPS).ok()?)
}

/// The memory of the machine in bytes, if it can be read.
pub fn machine_memory() -> Option<u64> {
    total(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// The smallest limit of the groups that `groups`, the text of `/proc/self/cgroup`, names below `mount`.
fn limit_below(mount: &Path, groups: &str) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| group(mount, line))
        .filter_map(|(file, mount, group)| {
            let above = group.ancestors().take_while(|group| group.starts_with(&mount));
            above.filter_map(|group| limit(&group.join(file))).min()
        })
        .min()
}

/// The file with a limit of memory, the mount point and the directory of the group that a line names, if it is one of
/// memory. Inside a container the path may be that of the host, and then only the mount point exists.
fn group(mount: &Path, line: &str) -> Option<(&'static str, PathBuf, PathBuf)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (file, mount) = match controllers {
        "" => ("memory.max", mount.to_owned()),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("memory.limit_in_bytes", mount.join("memory"))
        }
        _ => return None,
    };
    let group = mount.join(path.trim_start_matches('/'));
    Some((file, mount, group))
}

fn limit(file: &Path) -> Option<u64> {
    let bytes: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < UNLIMITED).then_some(bytes)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests;
