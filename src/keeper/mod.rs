//! `warren keeper`: holds live connections while no proxy of the node runs.
//!
//! A proxy that stops without a next one gives its connections to the keeper, which holds them as they are: nothing is
//! read or written, and the kernel buffers. The first proxy that appears gets all of them. What nobody has taken in time
//! is reset.

mod give;
mod held;
mod shared;
mod take;

use std::{path::PathBuf, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use self::{held::Store, shared::Keeper};
use crate::{
    actors::handover::listen,
    protocols::{config::KeeperSettings, handover::message::Hello},
    sys::{
        confinement::{self, ConfinementError},
        limits,
    },
    telemetry::log::Logging,
};

/// Runs the keeper until it is told to stop and holds nothing any more. `revision` is that of the program.
///
/// # Errors
/// The keeper cannot start; the text says why.
pub fn run(settings: &KeeperSettings, revision: &str) -> Result<(), String> {
    // No thread has been started, so all of them inherit it.
    let confined = confinement::confine_wholly(settings.seccomp);
    let log = &settings.log;
    let _logging =
        Logging::install(log.format, log.filter.clone(), None).map_err(|e| format!("logging: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("runtime: {e}"))?;
    tracing::info!(target: "keeper", version = env!("CARGO_PKG_VERSION"), revision, "warren keeper");
    tell(settings, confined);
    runtime.block_on(keep(settings)).map_err(|e| format!("cannot listen for signals: {e}"))
}

/// Logs the settings, and what is wrong with the privileges and limits.
fn tell(settings: &KeeperSettings, confined: Result<(), Vec<ConfinementError>>) {
    for warning in &settings.warnings {
        tracing::warn!(target: "keeper", "{warning}");
    }
    for error in confined.err().into_iter().flatten() {
        tracing::warn!(target: "keeper", %error, "the process keeps privileges that it does not need");
    }
    let KeeperSettings { uds, handover_uds, hold, .. } = settings;
    match limits::raise_open_files() {
        Ok(limit) => tracing::info!(target: "keeper", uds, handover_uds, ?hold, limit, "holds connections"),
        Err(error) => tracing::warn!(target: "keeper", %error, "cannot raise the limit of open files"),
    }
}

async fn keep(settings: &KeeperSettings) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let instance = format!("{:032x}", rand::random::<u128>());
    let keeper = Arc::new(Keeper {
        next: PathBuf::from(&settings.handover_uds),
        hello: Hello::new(env!("CARGO_PKG_VERSION"), &instance),
        store: Store::new(settings.hold),
    });
    let held = async { tokio::join!(give::run(&keeper), keeper.store.expire()) };
    tokio::pin!(held);
    {
        let serving = keeper.clone();
        let path = PathBuf::from(&settings.uds);
        let taking = listen::run(&path, &instance, move |socket| take::serve(serving.clone(), socket));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut held => {}
            () = taking => {}
        }
    }
    // The socket is closed, so that a proxy that stops as well keeps its connections.
    let left = keeper.store.connections();
    if left > 0 {
        tracing::info!(target: "keeper", left, "told to stop: what is held waits for the next proxy until its time is over");
        tokio::select! {
            () = keeper.store.emptied() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut held => {}
        }
    }
    keeper.store.close_all();
    let (taken, given, closed) = keeper.store.counts();
    tracing::info!(target: "keeper", taken, given, closed, "stopped");
    Ok(())
}
