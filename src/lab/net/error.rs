//! The error of the lab's network.

use std::io;

/// The error of a part of the lab's network that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused a new network namespace.
    #[error("cannot create network namespace {name}: {source}")]
    Create {
        /// The namespace.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A thread could not enter a namespace.
    #[error("cannot enter network namespace {name}: {source}")]
    Enter {
        /// The namespace.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for {name}: {source}")]
    Thread {
        /// The namespace.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// No netlink socket could be opened or used.
    #[error("netlink socket of {namespace}: {source}")]
    Socket {
        /// The namespace.
        namespace: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused one netlink request.
    #[error("cannot {what} in {namespace}: {source}")]
    Refused {
        /// The request, in words.
        what: String,
        /// The namespace.
        namespace: String,
        /// The kernel's error.
        source: io::Error,
    },
}
