//! The process that goes on: it listens for a process that stops, and takes its connections.

use std::sync::Arc;

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
        handover::message::{Message, Verdict, encode_verdict},
    },
    sys::fdpass::SeqPacket,
    telemetry::handover::Moved,
};

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

async fn take_all(shared: &Shared, socket: SeqPacket, sum: &mut Sum) -> Result<String, LinkError> {
    let mut link = Link::new(socket)?;
    let former = link.greet(&shared.hello, false).await?;
    shared.breaker.reached(HandoverStep::NewGreeted).await;
    while let Some((message, fds)) = link.recv(SILENT_FOR).await? {
        shared.breaker.reached(HandoverStep::NewReceived).await;
        let (number, kind, count, prepared) = match message {
            Message::Record(number, record) => {
                let kind = record.as_ref().ok().map(|record| record.kind);
                (number, kind, 1, admit::prepare(shared, number, record, fds).await)
            }
            Message::Tunnel(number, tunnel) => {
                let kind = tunnel.as_ref().ok().map(|tunnel| tunnel.kind);
                let count = tunnel.as_ref().map_or(1, |tunnel| tunnel.streams.len());
                (number, kind, count, admit_tunnel::prepare(shared, number, tunnel, fds).await)
            }
            Message::Hello(_) | Message::Verdict(_) => return Err(LinkError::NotDue),
        };
        let (moved, counted) = match prepared {
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
    }
    Ok(former.program)
}
