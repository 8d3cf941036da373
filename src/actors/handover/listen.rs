//! The socket at which a process takes connections over.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    supervisor::OwnedTask,
    sys::fdpass::{SeqListener, SeqPacket},
};

/// The number of processes that may hand over at a time. A rollout has one.
/// Limit: processes that hand connections over at a time: 4; past it: a further process is turned away, and tries again.
const MAX_LINKS: usize = 4;
/// The pause after the socket could not be opened.
/// Limit: time until a socket for the hand-over of connections that could not be opened is tried again: 5 s; past it: it
/// is.
const BIND_AGAIN: Duration = Duration::from_secs(5);

/// Listens at `path` in the place of whoever did before, and runs `serve` for each process that connects. Never ends; a
/// drop closes the socket and all links. `instance` tells this process apart.
pub(crate) async fn run<F>(path: &Path, instance: &str, serve: impl Fn(SeqPacket) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut told = false;
    loop {
        match SeqListener::replace(path, &beside(path, instance)) {
            Ok(listener) => accept(&listener, &serve).await,
            Err(error) if !told => {
                tracing::warn!(target: "handover", path = %path.display(), %error, "no connections can be taken over");
                told = true;
            }
            Err(_) => {}
        }
        sleep(BIND_AGAIN).await;
    }
}

/// The path that the socket has for a moment.
fn beside(path: &Path, instance: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(instance.get(..8).unwrap_or_default());
    path.into()
}

/// Accepts links until the socket fails.
async fn accept<F>(listener: &SeqListener, serve: &impl Fn(SeqPacket) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut links: Vec<OwnedTask> = Vec::new();
    loop {
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) => {
                return tracing::warn!(target: "handover", %error, "no further process can hand over");
            }
        };
        links.retain(|link| !link.is_finished());
        if links.len() < MAX_LINKS {
            // A panic has its own report, and costs its link only.
            links.push(OwnedTask::spawn("handover/link", serve(socket), |_| ()));
        } else {
            tracing::warn!(target: "handover", "{MAX_LINKS} processes hand over already: another one is turned away");
        }
    }
}
