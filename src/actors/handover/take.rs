//! The process that goes on: it listens for a process that stops, and takes its connections.

use std::{os::fd::OwnedFd, sync::Arc};

use futures_util::{StreamExt, stream::FuturesOrdered};
use tokio::sync::oneshot;

use super::{
    admit::{self, Refusal},
    admit_tunnel,
    link::{Link, LinkError, SILENT_FOR},
    listen,
    shared::Shared,
};
use crate::{
    protocols::{
        config::HandoverStep,
        handover::{
            message::{Message, Verdict, encode_verdict},
            record::Kind,
        },
    },
    sys::fdpass::SeqPacket,
    telemetry::handover::Moved,
};

/// The number of offers that are made ready at a time.
/// Limit: offers of the former process that are made ready at a time: 16; past it: the former process waits.
const PREPARED_AT_ONCE: usize = 16;

/// What a link has brought.
#[derive(Debug, Default)]
struct Sum {
    taken: u64,
    refused: u64,
}

/// Takes connections from the moment when the pods are here until the process stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut leaves = shared.leaves.subscribe();
    tokio::select! {
        biased;
        _ = leaves.wait_for(|leaves| *leaves) => {}
        () = listen(&shared) => return,
    }
    // The end of this task would be a failure of the actor.
    std::future::pending().await
}

/// Listens for processes that stop. Returns only if nobody tells any more whether the pods are here.
async fn listen(shared: &Arc<Shared>) {
    let mut zds = shared.zds.clone();
    if zds.wait_for(|status| status.session.ready).await.is_err() {
        return;
    }
    let serving = shared.clone();
    listen::run(&shared.terms.next, &shared.hello.instance, move |socket| serve(serving.clone(), socket))
        .await;
}

/// Takes the connections of one process.
async fn serve(shared: Arc<Shared>, socket: SeqPacket) {
    let mut sum = Sum::default();
    let ended = take_all(&shared, socket, &mut sum).await;
    let Sum { taken, refused } = sum;
    match ended {
        Ok(program) => {
            tracing::info!(target: "handover", taken, refused, program, "the former process has handed over");
        }
        Err(error) => {
            tracing::warn!(target: "handover", taken, refused, %error, "a link for the hand-over of connections ended");
        }
    }
}

/// An offer that has come, and what was made of it.
struct Prepared {
    number: u64,
    /// `None` if the offer is so wrong that its kind is not known.
    kind: Option<Kind>,
    /// The number of connections.
    count: usize,
    go: Result<oneshot::Sender<()>, Refusal>,
}

/// Takes offers until the former process has no more. Several are made ready at a time, and answered in order.
async fn take_all(shared: &Shared, socket: SeqPacket, sum: &mut Sum) -> Result<String, LinkError> {
    let mut link = Link::new(socket)?;
    let former = link.greet(&shared.hello, false).await?;
    shared.breaker.reached(HandoverStep::NewGreeted).await;
    let mut preparing = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(prepared) = preparing.next() => answer(shared, &link, prepared?, sum).await?,
            received = link.recv(SILENT_FOR), if preparing.len() < PREPARED_AT_ONCE => {
                let Some((message, fds)) = received? else { return Ok(former.program) };
                shared.breaker.reached(HandoverStep::NewReceived).await;
                preparing.push_back(prepare(shared, message, fds));
            }
        }
    }
}

/// Makes everything ready for what is offered.
async fn prepare(shared: &Shared, message: Message, fds: Vec<OwnedFd>) -> Result<Prepared, LinkError> {
    match message {
        Message::Record(number, record) => {
            let kind = record.as_ref().ok().map(|record| record.kind);
            let go = admit::prepare(shared, number, record, fds).await;
            Ok(Prepared { number, kind, count: 1, go })
        }
        Message::Tunnel(number, tunnel) => {
            let kind = tunnel.as_ref().ok().map(|tunnel| tunnel.kind);
            let count = tunnel.as_ref().map_or(1, |tunnel| tunnel.streams.len());
            let go = admit_tunnel::prepare(shared, number, tunnel, fds).await;
            Ok(Prepared { number, kind, count, go })
        }
        Message::Hello(_) | Message::Verdict(_) => Err(LinkError::NotDue),
    }
}

/// Answers an offer. A connection that is taken begins here.
async fn answer(shared: &Shared, link: &Link, prepared: Prepared, sum: &mut Sum) -> Result<(), LinkError> {
    let Prepared { number, kind, count, go } = prepared;
    let (moved, counted) = match go {
        Ok(go) => {
            shared.breaker.reached(HandoverStep::NewPrepared).await;
            link.send(&encode_verdict(&Verdict { number, taken: Ok(()) }), &[]).await?;
            shared.breaker.reached(HandoverStep::NewAnswered).await;
            // The connection is this process's. A shard that was lost meanwhile has lost its connections.
            let _ = go.send(());
            shared.breaker.reached(HandoverStep::NewBegun).await;
            (Moved::Taken, &mut sum.taken)
        }
        Err(Refusal(reason)) => {
            tracing::info!(target: "handover", reason, "a connection is refused");
            link.send(&encode_verdict(&Verdict { number, taken: Err(reason) }), &[]).await?;
            (Moved::Refused, &mut sum.refused)
        }
    };
    *counted += count as u64;
    shared.metrics.handover.moved(moved, kind, count);
    Ok(())
}
