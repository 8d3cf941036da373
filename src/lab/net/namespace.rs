//! A network namespace held by a file descriptor.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use super::error::NetError;
use crate::sys::lab::{self, Namespaces};

/// A network namespace. It lives as long as a clone of this, a socket or a process in it does.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    fd: OwnedFd,
}

// === impl Namespace ===

impl Namespace {
    /// Makes an empty namespace, its loopback still down. `name` is for errors, logs and threads.
    pub fn create(name: impl Into<String>) -> Result<Self, NetError> {
        let name = name.into();
        let make = || -> io::Result<OwnedFd> {
            lab::unshare(Namespaces::NET)?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        };
        let made = thread::scope(|scope| {
            let started = thread::Builder::new().name(name.clone()).spawn_scoped(scope, make);
            started.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        match made {
            Ok(Ok(fd)) => Ok(Self::from_fd(name, fd)),
            Ok(Err(source)) => Err(NetError::Create { name, source }),
            Err(source) => Err(NetError::Thread { name, source }),
        }
    }

    /// Takes over `fd`, a descriptor of a network namespace.
    pub fn from_fd(name: impl Into<String>, fd: OwnedFd) -> Self {
        Self(Arc::new(Inner { name: name.into(), fd }))
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The descriptor, as `setns` and the CNI protocol want it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Runs `work` on a thread inside and waits for it; a panic in it goes on in the caller. Sockets made inside
    /// stay inside wherever they are used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetError> {
        thread::scope(|scope| {
            let builder = thread::Builder::new().name(self.name().to_owned());
            let inside = || self.enter().map(|()| work());
            match builder.spawn_scoped(scope, inside) {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(source) => Err(NetError::Thread { name: self.name().to_owned(), source }),
            }
        })
    }

    /// Starts `work` on a thread inside that the caller owns; it has not begun if entering failed.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, NetError>>, NetError> {
        let here = self.clone();
        let inside = move || here.enter().map(|()| work());
        let builder = thread::Builder::new().name(self.name().to_owned());
        builder.spawn(inside).map_err(|source| NetError::Thread { name: self.name().to_owned(), source })
    }

    fn enter(&self) -> Result<(), NetError> {
        lab::enter(self.fd(), Namespaces::NET)
            .map_err(|source| NetError::Enter { name: self.name().to_owned(), source })
    }
}
