//! Breaking on purpose: actors that panic, hang or are late, starts that fail, tasks that panic. It proves that each is
//! survived.

mod fault;
mod tripwire;

pub use fault::Fault;
pub(super) use fault::{FailingStarts, Slowness};
pub(crate) use tripwire::trip;
pub use tripwire::{MAX_ARMED, TooManyArmed, Tripwire, arm, armed, kind_of, tripwire};
