//! The keeper gives what it holds to the first proxy that appears.

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{held::Held, shared::Keeper};
use crate::{
    actors::handover::{
        exchange::{InFlight, LOOK_INTERVAL, REFUSED_PAUSE},
        link::{Link, LinkError},
    },
    dataplane::pod::departure::Answer,
    protocols::handover::message::Hello,
    supervisor::watch_panics,
    sys::fdpass::SeqPacket,
};

/// What a round has done, in connections.
#[derive(Debug, Default)]
struct Round {
    given: u64,
    kept: u64,
    /// The last reason of a refusal.
    reason: Option<String>,
}

/// Gives away what is held, whenever there is something and somebody. Never ends.
pub(super) async fn run(keeper: &Keeper) {
    let mut told = None;
    loop {
        keeper.store.filled().await;
        let error = match watch_panics(session(keeper)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(format!("a panic: {panic}")),
        };
        // A failure that repeats is told once.
        if let Some(error) = &error
            && told.as_ref() != Some(error)
        {
            let path = keeper.next.display();
            tracing::info!(target: "keeper", %path, "no proxy takes what is held: {error}");
        }
        told = error;
        sleep(LOOK_INTERVAL).await;
    }
}

/// Gives everything to one proxy.
async fn session(keeper: &Keeper) -> Result<(), LinkError> {
    let mut link = Link::new(SeqPacket::connect(&keeper.next)?)?;
    let proxy = link.greet(&keeper.hello, true).await?;
    let mut refused = None;
    while keeper.store.waiting() > 0 {
        let (began, mut round) = (Instant::now(), Round::default());
        let ended = give_all(keeper, &mut link, &proxy, &mut round).await;
        let Round { given, kept, reason } = round;
        if given > 0 || reason != refused {
            let took = began.elapsed();
            tracing::info!(target: "keeper", program = proxy.program, instance = proxy.instance, given, kept, ?took, reason, "connections handed on");
        }
        refused = reason;
        ended?;
        sleep(if refused.is_some() { REFUSED_PAUSE } else { LOOK_INTERVAL }).await;
    }
    Ok(())
}

/// Offers each of those that wait.
async fn give_all(
    keeper: &Keeper,
    link: &mut Link,
    proxy: &Hello,
    round: &mut Round,
) -> Result<(), LinkError> {
    for _ in 0..keeper.store.waiting() {
        let Some(held) = keeper.store.next() else { break };
        let count = held.outline.connections as u64;
        let verdict = if proxy.takes.contains(&held.outline.kind) {
            offer(keeper, link, held).await
        } else {
            let reason = format!("the proxy takes no connections of kind {}", held.outline.kind.as_str());
            keeper.store.put_back(held);
            Ok(Err(reason))
        };
        let taken = matches!(verdict, Ok(Ok(())));
        *(if taken { &mut round.given } else { &mut round.kept }) += count;
        if let Err(reason) = verdict? {
            round.reason = Some(reason);
        }
    }
    Ok(())
}

/// Makes one offer. The inner result is the proxy's answer.
async fn offer(keeper: &Keeper, link: &mut Link, held: Held) -> Result<Result<(), String>, LinkError> {
    let (answer, answered) = oneshot::channel();
    let (in_flight, answers) = InFlight::open(link);
    let verdict = answers
        .beside(&in_flight, in_flight.offer(held.number, answer).run(&held.message, &held.sockets))
        .await;
    // The exchange is over, so the answer is there.
    match answered.await {
        Ok(Answer::Taken) => keeper.store.forget(held),
        Ok(Answer::Kept) | Err(_) => keeper.store.put_back(held),
    }
    verdict
}

#[cfg(test)]
mod tests;
