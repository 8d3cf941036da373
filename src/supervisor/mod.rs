//! OTP-style supervision on ractor: a crash costs one actor a restart, and the crash is reported.
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
//! **Start**: children start in declared order, each child once the child before is up. A first start that fails is
//! returned to the caller: a start that never worked is no crash. Children of a dynamic supervisor start on request.
//!
//! **Failure**: a child fails by a panic, an error, a kill, or an end that its [`Restart`] does not allow. The
//! supervisor then waits for the child's [`Backoff`] and starts the child again. The siblings that the [`Strategy`]
//! names are stopped before, in reverse order, and started with the child. A restart that fails is a failure like any
//! other. A failure does not block the supervisor: each start, back-off and stop is a task that the supervisor owns.
//!
//! **Escalation**: if a supervisor counts more failures than its [`Intensity`] allows, the supervisor stops its
//! children in reverse order and fails. Its parent handles the failure as that of a child. When the root fails,
//! [`Tree::exited`] reports the failure, and the process should end. A dynamic child never escalates: the child goes
//! into quarantine and is retried after growing delays.
//!
//! **Stop**: children stop in reverse order, gracefully within each child's budget, and then by a kill. A supervisor
//! stops its children before itself. Dynamic children stop all at once.
//!
//! **Observation**: [`TreeHandle::snapshot`] reads shared memory, so a snapshot shows a hung actor, too. Each [`Event`]
//! is logged and given to the observer of [`Tree::start_observed`].
//!
//! **Hung** actors: a watchdog ([`Tree::watched`]) finds and kills hung actors. The watchdog times running handlers and
//! sleeps while no handler runs. [`TreeHandle::inject`] sends a fault to an actor, and [`faults::arm`] puts a fault
//! into tasks.
//!
//! An [`OwnedTask`] is a task that is no actor but has an owner, too.
//!
//! Inside the module, `restart` and `plan` decide and are pure. `shell` is the actor that performs their decisions.
//!
//! # What to know of ractor
//! - Mailboxes have no bound: bound admission where a peer can trigger messages.
//! - A panic, an `Err` and a kill skip `post_stop`: clean up in `Drop` of the State. Tasks belong in the State too.
//! - An actor that spawns linked actors and does not handle their exits dies with the first exit. A worker that needs
//!   helpers gets a supervisor or owns tasks.
//! - A panicked actor's State drops just after its supervisor is told, in the same poll. On the single-threaded control
//!   runtime no other task runs in between. The children of a killed supervisor are also gone before its next start.
//!   (On other runtimes a start may find its port in use, and the start is tried again.)
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
