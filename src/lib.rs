//! warren: the per-node proxy of an ambient service mesh. See ARCHITECTURE.md.

#[cfg(panic = "abort")]
compile_error!(
    "supervision needs panic=unwind: a caught panic restarts one actor, an abort takes the node's traffic down"
);

pub mod actors;
pub mod command_line;
pub(crate) mod dataplane;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod keeper;
#[cfg(feature = "lab")]
pub mod lab;
pub mod protocols;
pub mod runtime;
pub mod supervisor;
pub mod sys;
pub mod telemetry;
