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

/// A network namespace. It lives as long as a clone of this value, a socket or a process in it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    fd: OwnedFd,
}

// === impl Namespace ===

impl Namespace {
    /// Makes an empty namespace, whose loopback is still down. `name` appears in errors, logs and thread names.
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

    /// The name given at the creation.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The namespace's descriptor, in the form for `setns` and the CNI protocol.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Runs `work` on a thread inside the namespace and waits for it; a panic of `work` continues in the caller. A
    /// socket made inside stays inside wherever it is used.
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

    /// Starts `work` on a thread inside the namespace, which the caller owns. If entering fails, `work` has not
    /// begun.
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
