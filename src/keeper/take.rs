//! A proxy that stops gives its connections to the keeper.

use std::sync::Arc;

use super::shared::Keeper;
use crate::{
    actors::handover::link::{Link, LinkError, SILENT_FOR},
    protocols::handover::{
        message::{Verdict, encode_verdict},
        outline::Offered,
    },
    sys::fdpass::SeqPacket,
};

/// What a link has brought, in connections.
#[derive(Debug, Default)]
struct Sum {
    taken: u64,
    refused: u64,
}

/// Takes the connections of one proxy.
pub(super) async fn serve(keeper: Arc<Keeper>, socket: SeqPacket) {
    let mut sum = Sum::default();
    let ended = take_all(&keeper, socket, &mut sum).await;
    let Sum { taken, refused } = sum;
    match ended {
        Ok(program) => {
            tracing::info!(target: "keeper", taken, refused, program, "a proxy has handed over");
        }
        Err(error) => {
            tracing::warn!(target: "keeper", taken, refused, %error, "a link for the hand-over of connections ended");
        }
    }
}

async fn take_all(keeper: &Keeper, socket: SeqPacket, sum: &mut Sum) -> Result<String, LinkError> {
    let mut link = Link::new(socket)?;
    let former = link.greet(&keeper.hello, false).await?;
    while let Some((message, fds)) = link.recv_bytes(SILENT_FOR).await? {
        let offered = Offered::read(&message)?.ok_or(LinkError::NotDue)?;
        let number = offered.number;
        let count = offered.outline.as_ref().map_or(1, |outline| outline.connections as u64);
        match keeper.store.admit(message, fds, offered) {
            Ok(held) => {
                link.send(&encode_verdict(&Verdict { number, taken: Ok(()) }), &[]).await?;
                // The connection is the keeper's from here on.
                keeper.store.put(held);
                sum.taken += count;
            }
            Err(reason) => {
                tracing::info!(target: "keeper", reason, "a connection is refused");
                link.send(&encode_verdict(&Verdict { number, taken: Err(reason) }), &[]).await?;
                sum.refused += count;
            }
        }
    }
    Ok(former.program)
}

#[cfg(test)]
mod tests;
