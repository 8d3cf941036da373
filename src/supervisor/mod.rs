//! OTP-style supervision on ractor: a crash costs one actor a restart, and is heard of.
//!
//! ```text
//! SupervisorSpec          Tree::start      root          supervisor: starts, watches, restarts
//!   |- ChildSpec          ----------->     |- xds        worker: reached through an Address<M>
//!   |- SupervisorSpec                      |- meshsup    supervisor
//!   `- DynamicSpec                         `- pods       its children come and go through DynamicChildren
//! ```
//!
//! An [`Address`], a [`DynamicChildren`] and the paths, counts and last exits that a [`TreeHandle`] shows survive the
//! restarts of the actors behind them.
//!
//! **Start** is in declared order, each child after the one before is up. A first start that fails is returned to the
//! caller: a start that never worked is no crash. Children of a dynamic supervisor start when asked to.
//!
//! **Failure** of a child (panic, error, kill, or an end that its [`Restart`] does not allow) makes its supervisor
//! wait for the child's [`Backoff`], then start it again, together with the siblings that its [`Strategy`] names:
//! those are stopped in reverse order first. A restart that fails is a failure like any other. Nothing of this blocks
//! the supervisor: each start, back-off and stop is a task it owns.
//!
//! **Escalation**: more failures than the [`Intensity`] allows, and a supervisor stops its children, in reverse, and
//! fails itself; that is a failure of a child to its parent. When the root gives up, [`Tree::exited`] says so, and
//! the process should end. A dynamic child never escalates: it goes into quarantine, retried after growing delays.
//!
//! **Stop** is in reverse order: gracefully within each child's budget, then by kill. Supervisors stop what is below
//! them first. Dynamic children stop all at once.
//!
//! **Seen**: [`TreeHandle::snapshot`] reads shared memory and so shows a hung actor too; each [`Event`] is logged and
//! given to the observer of [`Tree::start_observed`].
//!
//! **Hung** actors are found by a watchdog ([`Tree::watched`]) and killed: it times the handlers that run, and sleeps
//! while none does. [`TreeHandle::inject`] sends a fault to an actor, [`faults::arm`] puts one into tasks.
//!
//! Not an actor, but owned all the same: a task is an [`OwnedTask`].
//!
//! Inside, `restart` and `plan` decide and are pure; `shell` is the actor that performs what they decide.
//!
//! # What to know of ractor
//! - Mailboxes have no bound: bound admission where a peer can trigger messages.
//! - A panic, an `Err` and a kill skip `post_stop`: clean up in `Drop` of the State. Tasks belong in the State too.
//! - An actor that spawns linked actors and does not handle their exits dies with the first: a worker that needs
//!   helpers gets a supervisor, or owns tasks.
//! - A panicked actor's State drops just after its supervisor is told, in the same poll. On the single-threaded control
//!   runtime nothing runs in between. The same holds for the children of a killed supervisor: they are gone before
//!   it is started again. (On other runtimes a start may find its port in use, and is tried again.)
//! - A stop discards the queue once the current handler is done; a kill cuts at the next await. Neither ends a loop
//!   that never awaits.

mod actor;
mod actor_ref;
mod address;
mod child;
mod diagnostics;
mod dynamic;
mod event;
pub mod faults;
mod node;
mod plan;
mod restart;
mod shell;
mod spec;
mod supervised;
mod task;
mod tree;

#[cfg(test)]
mod tests;

pub use actor::{Actor, Described};
pub use actor_ref::{ActorRef, Gone};
pub use address::{Address, AddressError};
pub use child::{ChildSpec, StartError};
pub use diagnostics::{
    CrashReport, Death, ExitNote, Handled, Load, MAX_REPORTS, NodeKind, NodeSnapshot, NodeState, TraceOf,
    note_panic, report_task_panic, report_task_panic_as,
};
pub use dynamic::{DynamicChildren, StopError};
pub use event::{Event, EventKind};
pub use faults::Fault;
pub use node::{NoSuchNode, NotReached};
pub use restart::{Backoff, Intensity, Restart, Strategy};
pub use spec::{DynamicSpec, SupervisorSpec};
#[cfg(test)]
pub(crate) use supervised::run_alone;
pub use task::{OwnedTask, TaskExit, WatchPanics, observe_task_panics, watch_panics};
pub use tree::{Tree, TreeExit, TreeHandle};
