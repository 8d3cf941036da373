//! Whether a connection can be taken: the pods must be here and the same, and the descriptors must be their sockets.
//! Nothing here touches a socket's bytes, so a refused connection goes on where it was.

use std::{net::TcpStream, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::shared::Shared;
use crate::{
    actors::pods::pod::Pod,
    dataplane::arrival::{Arrival, ArrivalPods, Gate},
    protocols::{
        addr::canonical,
        handover::record::{BadRecord, Kind, PodPlace, Record, SOCKETS},
    },
    runtime::shard::{Shard, Shards},
    sys::handed_socket::connected_tcp,
};

/// The time in which a shard must have made everything ready.
/// Limit: time for a shard to make a connection ready that is handed over: 500 ms; past it: the connection is refused.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// Why a connection is not taken, for people.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

/// Makes everything ready for a connection. The connection begins here once the returned sender is used; if the sender
/// is dropped, the connection stays where it was.
///
/// # Errors
/// The connection cannot be taken.
pub(super) async fn prepare(
    shared: &Shared,
    number: u64,
    record: Result<Box<Record>, BadRecord>,
    fds: Vec<OwnedFd>,
) -> Result<oneshot::Sender<()>, Refusal> {
    let record = *record.map_err(refusal)?;
    let pod = find(shared, &record.side.pod)?;
    let there = record.beside.as_ref().map(|side| find(shared, &side.pod)).transpose()?;
    let to = destination(&record, &pod, there.as_deref())?;
    let sockets = sockets(fds, &pod, there.as_deref().unwrap_or(&pod), &record)?;
    let shards = &pod.node.shards;
    let home = usize::try_from(number).unwrap_or_default() % shards.count();
    let arrival = Arrival { to, record, sockets };
    begin(shards, shards.balance().connection(home), move |shard, gate| arrival.begin(shard, gate)).await
}

/// Has shard `index` make something ready by `place`. What was made begins once the returned sender is used.
pub(super) async fn begin(
    shards: &Shards,
    index: usize,
    place: impl FnOnce(&Shard, Gate) + Send + 'static,
) -> Result<oneshot::Sender<()>, Refusal> {
    let (ready, made) = oneshot::channel();
    let (go, begins) = oneshot::channel();
    shards.run_on(index, move |shard| place(shard, Gate { ready, go: begins })).map_err(refusal)?;
    match timeout(READY_WITHIN, made).await {
        Ok(Ok(Ok(()))) => Ok(go),
        Ok(Ok(Err(why))) => Err(Refusal(why)),
        Ok(Err(_)) => Err(Refusal("the shard was lost".into())),
        Err(_) => Err(Refusal(format!("the shard did not answer within {READY_WITHIN:?}"))),
    }
}

pub(super) fn refusal(error: impl ToString) -> Refusal {
    Refusal(error.to_string())
}

/// The pod of a connection.
pub(super) fn find(shared: &Shared, PodPlace { uid, netns }: &PodPlace) -> Result<Arc<Pod>, Refusal> {
    let pod = shared.pods.find(uid).filter(|pod| pod.id.is_handed_over());
    let pod = pod.ok_or_else(|| Refusal(format!("pod {uid:?} is not served here")))?;
    if pod.network().netns.id() != *netns {
        return Err(Refusal(format!("pod {uid:?} has another network namespace here")));
    }
    if pod.conns().is_draining() {
        return Err(Refusal(format!("pod {uid:?} is about to end here")));
    }
    Ok(pod)
}

fn destination(record: &Record, pod: &Pod, there: Option<&Pod>) -> Result<ArrivalPods, Refusal> {
    match (record.kind, there) {
        (Kind::Outbound, None) => Ok(ArrivalPods::Outbound(pod.outbound.clone())),
        (Kind::Plaintext, None) if record.side.identity.is_some() => {
            Err(Refusal("a plaintext connection with an identity".into()))
        }
        (Kind::Plaintext, None) => Ok(ArrivalPods::Plaintext(pod.inbound.clone())),
        (Kind::Local, Some(there)) => Ok(ArrivalPods::Local(pod.outbound.clone(), there.inbound.clone())),
        (kind, _) => {
            Err(Refusal(format!("a connection of kind {} with a side too many or few", kind.as_str())))
        }
    }
}

/// The sockets of the client, which `pod` has accepted or the client has opened, and of the server.
fn sockets(
    fds: Vec<OwnedFd>,
    pod: &Pod,
    there: &Pod,
    record: &Record,
) -> Result<[TcpStream; SOCKETS], Refusal> {
    let [client, server]: [OwnedFd; SOCKETS] = fds.try_into().map_err(|fds: Vec<OwnedFd>| {
        Refusal(format!("{} descriptors in the place of {SOCKETS}", fds.len()))
    })?;
    let client = connected_tcp(client, &pod.network().netns).map_err(refusal)?;
    let server = connected_tcp(server, &there.network().netns).map_err(refusal)?;
    // Policies go by this address.
    let peer = client.peer_addr().map_err(refusal)?;
    if canonical(peer) != canonical(record.side.client) {
        return Err(Refusal("a socket of another client".into()));
    }
    Ok([client, server])
}
