//! A limit of memory for a proxy, by a control group of the kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A control group whose processes have a limit of memory together. Dropping the value removes the group, once its
/// processes have ended.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    path: PathBuf,
    /// The file with the number of times that the limit had a process killed.
    kills: (PathBuf, &'static str),
}

impl MemoryGroup {
    /// Makes a group called `name` with a limit of `bytes`, by either version of control groups.
    ///
    /// # Errors
    /// There are none here, or this process may not make one.
    pub(super) fn new(name: &str, bytes: u64) -> io::Result<Self> {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (path, limit, kills) = if first.is_dir() {
            let path = first.join(name);
            let kills = (path.join("memory.oom_control"), "oom_kill ");
            (path, "memory.limit_in_bytes", kills)
        } else {
            let path = Path::new("/sys/fs/cgroup").join(name);
            let kills = (path.join("memory.events"), "oom_kill ");
            (path, "memory.max", kills)
        };
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::write(path.join(limit), bytes.to_string())?;
        Ok(Self { path, kills })
    }

    /// Moves a process into the group. Its memory counts from here on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// How often the kernel killed a process of the group for want of memory.
    ///
    /// # Errors
    /// The group has no count.
    pub(super) fn kills(&self) -> io::Result<u64> {
        let (path, name) = &self.kills;
        let text = fs::read_to_string(path)?;
        let count = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        count.ok_or_else(|| io::Error::other(format!("{} has no {name}", path.display())))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group with processes stays: they are the lab's, which ends them later.
        let _ = fs::remove_dir(&self.path);
    }
}
