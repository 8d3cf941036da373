//! Locks, wakers and atomics that are the real ones, or loom's within [`in_every_order`].
#![allow(dead_code, reason = "each piece uses a part")]

use std::{
    cell::Cell,
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::atomic::{self as real, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use loom::sync as model;

thread_local! {
    /// Loom runs the threads of a model on the thread of the test.
    static MODELLED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `test` in every order in which its threads can take turns, where a thread loses at most `preemptions` turns
/// that it could go on with. What waits for ever is a failure.
pub(crate) fn in_every_order(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MODELLED.set(false);
        }
    }
    MODELLED.set(true);
    let _reset = Reset;
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// A lock that is never poisoned.
pub(crate) enum Mutex<T> {
    Real(parking_lot::Mutex<T>),
    Model(model::Mutex<T>),
}

pub(crate) enum Guard<'a, T> {
    Real(parking_lot::MutexGuard<'a, T>),
    /// A wait gives the lock away for a while.
    Model(&'a model::Mutex<T>, Option<model::MutexGuard<'a, T>>),
}

pub(crate) enum Condvar {
    Real(parking_lot::Condvar),
    Model(model::Condvar),
}

/// Whether a wait ran out.
pub(crate) struct WaitResult(bool);

pub(crate) enum AtomicWaker {
    Real(atomic_waker::AtomicWaker),
    Model(model::Mutex<Option<Waker>>),
}

pub(crate) enum Notify {
    Real(tokio::sync::Notify),
    Model(model::Mutex<Waiting>),
}

#[derive(Default)]
pub(crate) struct Waiting {
    notifications: usize,
    wakers: Vec<Waker>,
}

pub(crate) enum Notified<'a> {
    Real(Pin<Box<tokio::sync::futures::Notified<'a>>>),
    /// The notifications before the wait do not count.
    Model(&'a model::Mutex<Waiting>, usize),
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) enum $name {
            Real(real::$name),
            Model(model::atomic::$name),
        }

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                match MODELLED.get() {
                    false => Self::Real(real::$name::new(value)),
                    true => Self::Model(model::atomic::$name::new(value)),
                }
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                match self {
                    Self::Real(atomic) => atomic.load(order),
                    Self::Model(atomic) => atomic.load(order),
                }
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                match self {
                    Self::Real(atomic) => atomic.store(value, order),
                    Self::Model(atomic) => atomic.store(value, order),
                }
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                match self {
                    Self::Real(atomic) => atomic.swap(value, order),
                    Self::Model(atomic) => atomic.swap(value, order),
                }
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                match self {
                    Self::Real(atomic) => atomic.compare_exchange(current, new, success, failure),
                    Self::Model(atomic) => atomic.compare_exchange(current, new, success, failure),
                }
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU16, u16);

// === impl AtomicU16 ===

impl AtomicU16 {
    pub(crate) fn fetch_or(&self, bits: u16, order: Ordering) -> u16 {
        match self {
            Self::Real(atomic) => atomic.fetch_or(bits, order),
            Self::Model(atomic) => atomic.fetch_or(bits, order),
        }
    }

    pub(crate) fn fetch_and(&self, bits: u16, order: Ordering) -> u16 {
        match self {
            Self::Real(atomic) => atomic.fetch_and(bits, order),
            Self::Model(atomic) => atomic.fetch_and(bits, order),
        }
    }

    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        next: impl FnMut(u16) -> Option<u16>,
    ) -> Result<u16, u16> {
        match self {
            Self::Real(atomic) => atomic.fetch_update(set, fetch, next),
            Self::Model(atomic) => atomic.fetch_update(set, fetch, next),
        }
    }
}

// === impl Mutex ===

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        match MODELLED.get() {
            false => Self::Real(parking_lot::Mutex::new(value)),
            true => Self::Model(model::Mutex::new(value)),
        }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        match self {
            Self::Real(lock) => Guard::Real(lock.lock()),
            Self::Model(lock) => Guard::Model(lock, Some(lock.lock().unwrap())),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Real(guard) => guard,
            Self::Model(_, guard) => guard.as_ref().unwrap(),
        }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Real(guard) => guard,
            Self::Model(_, guard) => guard.as_mut().unwrap(),
        }
    }
}

// === impl Condvar ===

impl Condvar {
    pub(crate) fn new() -> Self {
        match MODELLED.get() {
            false => Self::Real(parking_lot::Condvar::new()),
            true => Self::Model(model::Condvar::new()),
        }
    }

    pub(crate) fn notify_one(&self) {
        match self {
            Self::Real(condvar) => _ = condvar.notify_one(),
            Self::Model(condvar) => condvar.notify_one(),
        }
    }

    pub(crate) fn notify_all(&self) {
        match self {
            Self::Real(condvar) => _ = condvar.notify_all(),
            Self::Model(condvar) => condvar.notify_all(),
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
        match (self, guard) {
            (Self::Real(condvar), Guard::Real(guard)) => condvar.wait(guard),
            (Self::Model(condvar), Guard::Model(_, guard)) => {
                *guard = Some(condvar.wait(guard.take().unwrap()).unwrap());
            }
            _ => unreachable!("a lock of another world"),
        }
    }

    /// In a model the time is over once the others have had their turns.
    pub(crate) fn wait_for<T>(&self, guard: &mut Guard<'_, T>, time: Duration) -> WaitResult {
        match (self, guard) {
            (Self::Real(condvar), Guard::Real(guard)) => {
                WaitResult(condvar.wait_for(guard, time).timed_out())
            }
            (Self::Model(_), Guard::Model(lock, guard)) => {
                drop(guard.take());
                *guard = Some(lock.lock().unwrap());
                WaitResult(true)
            }
            _ => unreachable!("a lock of another world"),
        }
    }

    /// In a model the deadline never comes, so that nobody may rely on it.
    pub(crate) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, deadline: Instant) -> WaitResult {
        if let (Self::Real(condvar), Guard::Real(guard)) = (self, &mut *guard) {
            return WaitResult(condvar.wait_until(guard, deadline).timed_out());
        }
        self.wait(guard);
        WaitResult(false)
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Condvar")
    }
}

impl WaitResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

// === impl AtomicWaker ===

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        match MODELLED.get() {
            false => Self::Real(atomic_waker::AtomicWaker::new()),
            true => Self::Model(model::Mutex::new(None)),
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        match self {
            Self::Real(own) => own.register(waker),
            Self::Model(own) => *own.lock().unwrap() = Some(waker.clone()),
        }
    }

    pub(crate) fn wake(&self) {
        match self {
            Self::Real(own) => own.wake(),
            Self::Model(own) => {
                let waker = own.lock().unwrap().take();
                waker.into_iter().for_each(Waker::wake);
            }
        }
    }
}

// === impl Notify ===

impl Notify {
    pub(crate) fn new() -> Self {
        match MODELLED.get() {
            false => Self::Real(tokio::sync::Notify::new()),
            true => Self::Model(model::Mutex::new(Waiting::default())),
        }
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        match self {
            Self::Real(notify) => Notified::Real(Box::pin(notify.notified())),
            Self::Model(waiting) => Notified::Model(waiting, waiting.lock().unwrap().notifications),
        }
    }

    pub(crate) fn notify_waiters(&self) {
        match self {
            Self::Real(notify) => notify.notify_waiters(),
            Self::Model(waiting) => {
                let mut waiting = waiting.lock().unwrap();
                waiting.notifications += 1;
                let wakers = std::mem::take(&mut waiting.wakers);
                drop(waiting);
                wakers.into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Real(notified) => notified.as_mut().poll(cx),
            Self::Model(waiting, before) => {
                let mut waiting = waiting.lock().unwrap();
                if waiting.notifications > *before {
                    return Poll::Ready(());
                }
                waiting.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
