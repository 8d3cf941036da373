//! Facts about actors that are known without asking them: waiting messages, current and recent handlers, hangs, and
//! causes of death.

mod crash;
mod mailbox_gauge;
mod panics;
mod record;
mod snapshot;
mod watchdog;

#[cfg(test)]
pub(super) use self::{panics::frames, record::MESSAGES_KEPT};
pub use crash::{CrashReport, Death, MAX_REPORTS, report_task_panic, report_task_panic_as};
pub(super) use crash::{Dead, Reports};
pub(super) use mailbox_gauge::MailboxGauge;
pub use panics::note_panic;
pub(super) use panics::take_panic;
pub use record::{Handled, Load, TraceOf};
pub(super) use record::{HandledByKind, Handling, Record, Recorded};
pub use snapshot::{ExitNote, NodeKind, NodeSnapshot, NodeState};
pub(super) use watchdog::{WATCHDOG_INTERVAL, Watchdog, Watched};
