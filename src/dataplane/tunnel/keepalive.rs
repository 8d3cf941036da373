//! PINGs that tell whether a peer still answers.

use std::{future::poll_fn, sync::Arc};

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::dataplane::config::DataPlaneConfig;

/// Waits for the next PING to the peer and its answer. `None`: the peer has not answered in time. Without PINGs the
/// future never ends.
pub(crate) async fn answer(config: &DataPlaneConfig, pings: Option<PingPong>) -> Option<PingPong> {
    let Some(mut pings) = pings else { return std::future::pending().await };
    sleep(config.timeouts.ping_interval).await;
    if pings.send_ping(Ping::opaque()).is_err() {
        return std::future::pending().await;
    }
    let pong = poll_fn(|cx| pings.poll_pong(cx));
    let answered = timeout(config.timeouts.ping, pong).await.is_ok_and(|answer| answer.is_ok());
    answered.then_some(pings)
}

/// Ends when the peer has not answered a PING in time.
pub(crate) async fn silent(config: Arc<DataPlaneConfig>, mut pings: Option<PingPong>) {
    loop {
        pings = answer(&config, pings).await;
        if pings.is_none() {
            return;
        }
    }
}
