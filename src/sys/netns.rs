//! Entering network namespaces (docs/spec/dataplane.md 1.4).

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    sync::Arc,
};

/// An open network namespace, which lives at least as long as this value.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<NetnsFile>);

#[derive(Debug)]
struct NetnsFile {
    file: File,
    dev: u64,
    ino: u64,
}

thread_local! {
    /// The namespace that this thread has entered by [`NetNs::enter_sticky`]; `None` means the process's own
    /// namespace.
    static CURRENT: RefCell<Option<NetNs>> = const { RefCell::new(None) };
}

// === impl NetNs ===

impl NetNs {
    /// Takes over `fd`, a descriptor of a network namespace.
    ///
    /// # Errors
    /// The descriptor cannot be examined.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        let meta = file.metadata()?;
        Ok(Self(Arc::new(NetnsFile { dev: meta.dev(), ino: meta.ino(), file })))
    }

    /// The current namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted or not readable.
    pub fn current() -> io::Result<Self> {
        Self::from_fd(File::open("/proc/thread-self/ns/net")?.into())
    }

    /// The device and inode, which identify a namespace while the namespace is open.
    pub fn id(&self) -> (u64, u64) {
        (self.0.dev, self.0.ino)
    }

    /// The descriptor of the namespace.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.file.as_fd()
    }

    /// Runs `f` inside the namespace and then returns to the former namespace. `f` must not wait: the whole thread
    /// moves.
    ///
    /// The process aborts if the return fails, because every later socket would be opened in the wrong pod.
    ///
    /// # Errors
    /// The namespace cannot be entered; `f` has not run then.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let home = Self::current()?;
        self.set()?;
        let back = ReturnHome(&home);
        let out = f();
        drop(back);
        Ok(out)
    }

    /// Runs `f` inside the namespace. The thread stays there until another namespace is entered.
    ///
    /// The call is for shard threads, which open sockets only in pods: successive connections of a pod cost no
    /// switch.
    ///
    /// # Errors
    /// The namespace cannot be entered; `f` has not run then.
    pub fn enter_sticky<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let there = CURRENT.with_borrow(|c| c.as_ref().is_some_and(|c| Arc::ptr_eq(&c.0, &self.0)));
        if !there {
            self.set()?;
            CURRENT.set(Some(self.clone()));
        }
        Ok(f())
    }

    fn set(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open for the whole call, and setns touches no memory of ours.
        match unsafe { libc::setns(self.0.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for NetNs {}

/// Returns the thread to `home` if the thread has entered `ns` by [`NetNs::enter_sticky`], so that `ns` can vanish.
pub(crate) fn leave_sticky(ns: &NetNs, home: &NetNs) -> io::Result<()> {
    if CURRENT.with_borrow(|c| c.as_ref().is_some_and(|c| c == ns)) {
        home.set()?;
        CURRENT.set(None);
    }
    Ok(())
}

/// A guard that moves the thread home, also when the closure panics.
struct ReturnHome<'a>(&'a NetNs);

impl Drop for ReturnHome<'_> {
    fn drop(&mut self) {
        if self.0.set().is_err() {
            tracing::error!(target: "sys", "cannot return to the proxy's own network namespace");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests;
