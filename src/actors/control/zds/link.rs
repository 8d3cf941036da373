//! The connection with the agent. The link dials, greets, reads one packet at a time and writes the answer.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    message::{AgentRequest, Msg},
    status::Shared,
};
use crate::{
    protocols::zds::{
        NetnsId, codec,
        redial::{Ended, Redial},
        session::{Ask, Netns, Then, ZDS_ANSWER_WITHIN},
    },
    supervisor::ActorRef,
    sys::{
        fdpass::{RecvError, SeqPacket},
        netns::NetNs,
    },
};

/// The time that a packet may wait for room in the agent's queue.
/// Limit: writing an answer to istio-cni: 5 s; past it: the connection is closed.
const LINK_WRITE_WITHIN: Duration = Duration::from_secs(5);
/// The time to wait for an answer of the actor, which has a lower limit of its own. Past this time the actor is
/// broken.
/// Limit: wait for an answer to istio-cni in the connection's task: 4.5 s; past it: the connection is closed.
const LINK_ANSWER_WITHIN: Duration = ZDS_ANSWER_WITHIN.saturating_add(Duration::from_millis(500));

/// The end of a connection, with the error if the connection failed.
struct End {
    ended: Ended,
    error: String,
}

/// Keeps a connection with the agent from the opening of the gate until the actor drops the task, or until the agent is
/// left for good.
///
/// The function returns only if the sender of the gate is gone.
pub(super) async fn run(shared: Arc<Shared>, actor: ActorRef<Msg>) {
    let mut left = shared.left.subscribe();
    tokio::select! {
        biased;
        _ = left.wait_for(|left| *left) => {}
        () = keep(&shared, &actor) => return,
    }
    tracing::info!("istio-cni: left, because the proxy is shutting down");
    let _ = actor.cast(Msg::Disconnected);
    // The end of this task would be a failure of the actor.
    std::future::pending().await
}

async fn keep(shared: &Shared, actor: &ActorRef<Msg>) {
    let mut gate = shared.gate.clone();
    if gate.wait_for(|open| *open).await.is_err() {
        return;
    }
    let (mut redial, mut rng) = (Redial::new(), SmallRng::from_os_rng());
    loop {
        let End { ended, error } = connection(shared, actor).await;
        let news = shared.status.send_if_modified(|status| {
            let news = status.last_error.as_ref() != Some(&error);
            status.last_error = Some(error.clone());
            news
        });
        // A repeated failure is logged once.
        if news {
            tracing::warn!(path = %shared.path.display(), "istio-cni: {error}");
        }
        let wait = redial.wait(Instant::now().into_std(), ended, &mut rng);
        sleep(wait).await;
    }
}

/// Runs one connection from the dial to the end.
async fn connection(shared: &Shared, actor: &ActorRef<Msg>) -> End {
    let socket = match SeqPacket::connect(&shared.path) {
        Ok(socket) => socket,
        Err(error) => {
            return End {
                ended: Ended::Dial,
                error: format!("cannot connect to {}: {error}", shared.path.display()),
            };
        }
    };
    if let Err(error) = write(&socket, &codec::encode_hello()).await {
        return End { ended: Ended::Greeting, error: format!("cannot send the greeting: {error}") };
    }
    tracing::info!(path = %shared.path.display(), "istio-cni: connected");
    let since = Instant::now().into_std();
    shared.status.send_if_modified(|status| status.last_error.take().is_some());
    // A failed cast means that the actor is ending. This task ends with the actor.
    let _ = actor.cast(Msg::Connected);
    let error = serve(shared, actor, &socket).await;
    let _ = actor.cast(Msg::Disconnected);
    End { ended: Ended::Lost { since }, error }
}

/// Reads and answers packets until the connection ends. Returns the reason of the end.
async fn serve(shared: &Shared, actor: &ActorRef<Msg>, socket: &SeqPacket) -> String {
    loop {
        let packet = match socket.recv().await {
            Ok(Some(packet)) => packet,
            Ok(None) => return "the agent closed the connection".into(),
            Err(error @ RecvError::Io(_)) => return error.to_string(),
            // The packet's descriptors are closed already, and its bytes cannot be trusted.
            Err(error) => return format!("refused: {error}"),
        };
        let ask = match packet.fds.into_iter().map(identify).collect::<io::Result<Vec<_>>>() {
            Ok(namespaces) => Ask::decode(&packet.bytes, namespaces),
            Err(error) => Ask::Bad(format!("cannot examine the file descriptor of the packet: {error}")),
        };
        let (reply, answer) = oneshot::channel();
        let _ = actor.cast(Msg::Asked(AgentRequest { ask, reply }));
        let Ok(Ok((answer, then))) = timeout(LINK_ANSWER_WITHIN, answer).await else {
            return "no answer for the agent".into();
        };
        if let codec::Answer::Refused(why) = &answer {
            tracing::warn!("istio-cni: request refused: {why}");
        }
        let written = write(socket, &codec::encode_answer(&answer)).await;
        match (then, written) {
            (Then::Exit(reason), _) => {
                tracing::error!("istio-cni broke the protocol: {reason}");
                shared.status.send_modify(|status| status.fatal = Some(reason));
                // The process is about to exit, so no further packet is read.
                return std::future::pending().await;
            }
            (Then::Disconnect, _) => return "hung up after a packet that is no request".into(),
            (Then::Continue, Ok(())) => {}
            (Then::Continue, Err(error)) => return format!("cannot send an answer: {error}"),
        }
    }
}

async fn write(socket: &SeqPacket, packet: &[u8]) -> io::Result<()> {
    match timeout(LINK_WRITE_WITHIN, socket.send(packet, None)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn identify(fd: OwnedFd) -> io::Result<Netns<NetNs>> {
    let handle = NetNs::from_fd(fd)?;
    let (dev, ino) = handle.id();
    Ok(Netns { id: NetnsId { dev, ino }, handle })
}
