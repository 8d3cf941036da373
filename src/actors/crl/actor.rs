//! The actor that owns the watch of the file, puts its lists into force, and cuts the tunnels of revoked peers.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use ractor::{ActorProcessingErr, RpcReplyPort};

use super::{
    file::{self, Watch},
    shared::Shared,
};
use crate::{
    dataplane::pod::conns::{TunnelInfo, cut},
    protocols::{
        labels::Reporter,
        tls::{RevocationError, RevocationLists},
    },
    runtime::conns::{Conn, ConnSet},
    supervisor::{Actor, ActorRef, Described, OwnedTask},
};

/// The number of tunnels that a reload checks before other actors get a turn.
/// Limit: tunnels that a reload of revocation lists checks in one turn: 64; past it: other actors go first.
const TUNNELS_PER_TURN: usize = 64;

pub(super) struct CrlActor;

/// Messages of the actor. Its own watch sends them and waits for each answer.
pub(super) enum Msg {
    /// The file has changed: read its lists, and check all tunnels.
    Changed(io::Result<Vec<u8>>, RpcReplyPort<()>),
    /// Check all tunnels. Lists may have come into force while no actor was there to check.
    Check(RpcReplyPort<()>),
}

/// Why the file gives no lists.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Parse(#[from] RevocationError),
    #[error("the parser panicked: {0}")]
    Panicked(String),
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Changed(..) => "changed",
            Self::Check(_) => "check",
        }
    }
}

impl Actor for CrlActor {
    type Msg = Msg;
    type State = (Arc<Shared>, OwnedTask);
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        shared: Arc<Shared>,
    ) -> Result<Self::State, ActorProcessingErr> {
        let stamp = file::stamp(&shared.path).await;
        let bytes = file::read(&shared.path).await;
        // A file over which the actor has crashed must not keep the actor from starting.
        let read = catch_unwind(AssertUnwindSafe(|| shared.lists_of(bytes)));
        let first = !shared.started.load(Ordering::Relaxed);
        match read.unwrap_or_else(|panic| Err(Unusable::Panicked(text(&*panic)))) {
            Ok(lists) => shared.enforce(lists),
            Err(error) if first && shared.required => {
                let path = shared.path.display();
                return Err(format!("CRL_PATH: {path}: {error}; WARREN_CRL_REQUIRED=true").into());
            }
            Err(error) => shared.unusable(&error),
        }
        shared.started.store(true, Ordering::Relaxed);
        let (actor, watch) = (myself.clone(), Watch::new(&shared.path, stamp));
        let lost = move |_| myself.stop(Some("the watch ended".into()));
        let task = OwnedTask::spawn("crl/watch", look_out(watch, actor), lost);
        Ok((shared, task))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        (shared, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let reply = match message {
            Msg::Changed(bytes, reply) => {
                match shared.lists_of(bytes) {
                    Ok(lists) => shared.enforce(lists),
                    Err(error) => shared.unusable(&error),
                }
                reply
            }
            Msg::Check(reply) => reply,
        };
        shared.check_all().await;
        // Only a watch that was replaced meanwhile does not wait for the answer.
        let _ = reply.send(());
        Ok(())
    }
}

/// Reports each change of the file, after one check at the start.
async fn look_out(mut watch: Watch, actor: ActorRef<Msg>) {
    if actor.call(Msg::Check).await.is_err() {
        return;
    }
    loop {
        let bytes = watch.changed().await;
        if actor.call(|reply| Msg::Changed(bytes, reply)).await.is_err() {
            return;
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

// === impl Shared ===

impl Shared {
    fn lists_of(&self, bytes: io::Result<Vec<u8>>) -> Result<RevocationLists, Unusable> {
        Ok((self.parse)(&bytes?)?)
    }

    /// Puts `lists` into force. Handshakes see them from here on.
    fn enforce(&self, lists: RevocationLists) {
        tracing::info!(target: "crl", path = %self.path.display(), lists = lists.len(), "revocation lists in force");
        self.lists.replace(lists);
    }

    /// Says that the file gives no lists, and what that means.
    fn unusable(&self, error: &Unusable) {
        let (path, kept) = (self.path.display(), self.lists.generation() > 0);
        let meaning = if kept {
            "the lists in force stay"
        } else {
            "no certificate counts as revoked until the file changes"
        };
        tracing::warn!(target: "crl", %path, %error, "cannot use the revocation lists: {meaning}");
    }

    /// Cuts the tunnels and local hops of revoked peers.
    async fn check_all(&self) {
        let mut cut = 0;
        for (peers, dialled) in self.tunnels.tunnels() {
            cut += self.check_tunnels(&peers, Reporter::Destination).await;
            cut += self.check_tunnels(&dialled, Reporter::Source).await;
        }
        cut += self.check_hops().await;
        if cut > 0 {
            tracing::warn!(target: "crl", cut, "tunnels of revoked peers were cut");
        }
    }

    async fn check_tunnels<T>(&self, tunnels: &ConnSet<T>, reporter: Reporter) -> usize
    where
        T: AsRef<TunnelInfo> + Send + Sync + 'static,
    {
        let mut tracked: Vec<Conn<T>> = Vec::new();
        tunnels.for_each(|tunnel| {
            if tunnel.info().as_ref().chain().is_some() {
                tracked.push(tunnel.clone());
            }
        });
        let mut count = 0;
        for (index, tunnel) in tracked.iter().enumerate() {
            let info = tunnel.info().as_ref();
            if info.chain().is_some_and(|chain| chain.is_revoked()) {
                tunnel.cut(cut::REVOKED);
                let (peer, side) = (info.peer, reporter.as_str());
                tracing::debug!(target: "crl", %peer, reporter = side, "tunnel of a revoked peer cut");
                self.metrics.crl.rejected(reporter);
                count += 1;
            }
            breathe(index).await;
        }
        count
    }

    async fn check_hops(&self) -> usize {
        let mut tracked = Vec::new();
        self.tunnels.hops().for_each(|hop| tracked.push(hop.clone()));
        let mut count = 0;
        for (index, hop) in tracked.iter().enumerate() {
            if hop.info().is_revoked() {
                hop.info().cut();
                self.metrics.crl.rejected(Reporter::Destination);
                count += 1;
            }
            breathe(index).await;
        }
        count
    }
}

/// Lets other actors go first after a number of tunnels.
async fn breathe(index: usize) {
    if index % TUNNELS_PER_TURN == TUNNELS_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}
