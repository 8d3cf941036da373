//! The locks, wakers and atomics of the small pieces that threads share: connection sets, fair queues and the log queue.
//! Tests may run these pieces under a scheduler that tries the orders in which threads take turns.

#[cfg(not(test))]
pub(crate) use {
    atomic_waker::AtomicWaker,
    parking_lot::{Condvar, Mutex},
    std::sync::atomic::{AtomicBool, AtomicU16},
    tokio::sync::Notify,
};

#[cfg(test)]
pub(crate) mod modelled;
#[cfg(test)]
pub(crate) use modelled::{AtomicBool, AtomicU16, AtomicWaker, Condvar, Mutex, Notify};
