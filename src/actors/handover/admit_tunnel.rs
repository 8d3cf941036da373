//! Whether a tunnel can be taken: the pod must be here and the same, and the descriptors must be its sockets. Nothing here
//! touches a socket's bytes, so a refused tunnel goes on where it was.

use std::{net::TcpStream, os::fd::OwnedFd, sync::Arc};

use tokio::sync::oneshot;

use super::{
    admit::{self, Refusal, refusal},
    shared::Shared,
};
use crate::{
    actors::pods::pod::Pod,
    dataplane::adopted_tunnel::{TunnelArrival, TunnelPod},
    protocols::{
        addr::canonical,
        handover::{
            record::{BadRecord, Kind},
            tunnel::TunnelRecord,
        },
    },
    sys::handed_socket::connected_tcp,
};

/// Makes everything ready for a tunnel. The tunnel begins here once the returned sender is used; if the sender is dropped,
/// the tunnel stays where it was.
///
/// # Errors
/// The tunnel cannot be taken.
pub(super) async fn prepare(
    shared: &Shared,
    number: u64,
    record: Result<Box<TunnelRecord>, BadRecord>,
    fds: Vec<OwnedFd>,
) -> Result<oneshot::Sender<()>, Refusal> {
    let record = *record.map_err(refusal)?;
    let pod = admit::find(shared, &record.pod)?;
    let to = destination(&record, &pod)?;
    let (socket, apps) = sockets(fds, &pod, &record)?;
    let shards = &pod.node.shards;
    let home = usize::try_from(number).unwrap_or_default() % shards.count();
    let arrival = TunnelArrival { to, record, socket, apps };
    admit::begin(shards, shards.balance().tunnel(home), move |shard, gate| arrival.begin(shard, gate)).await
}

fn destination(record: &TunnelRecord, pod: &Pod) -> Result<TunnelPod, Refusal> {
    if pod.inbound.config.tunnel.tls.crl_path.is_some() && record.certificates.is_none() {
        return Err(Refusal("a tunnel without its peer's certificates, which may be revoked".into()));
    }
    match record.kind {
        Kind::OutboundTunnel => Ok(TunnelPod::Outbound(pod.outbound.clone())),
        Kind::InboundTunnel => {
            if record.peer_identity.is_none() {
                return Err(Refusal("a tunnel from a peer without an identity".into()));
            }
            // Policies go by these.
            let is_peers = |side: &crate::protocols::handover::record::Side| {
                side.client == record.peer && side.identity == record.peer_identity
            };
            if !record.streams.iter().all(|stream| is_peers(&stream.side)) {
                return Err(Refusal("a tunnel with the stream of another client".into()));
            }
            Ok(TunnelPod::Inbound(pod.inbound.clone()))
        }
        kind => Err(Refusal(format!("a tunnel of kind {}", kind.as_str()))),
    }
}

/// The sockets of the tunnel and of the streams' applications, all of which `pod` has made or accepted.
fn sockets(
    fds: Vec<OwnedFd>,
    pod: &Arc<Pod>,
    record: &TunnelRecord,
) -> Result<(TcpStream, Vec<TcpStream>), Refusal> {
    let (count, wanted) = (fds.len(), 1 + record.streams.len());
    let netns = &pod.network().netns;
    let mut fds = fds.into_iter().map(|fd| connected_tcp(fd, netns).map_err(refusal));
    let socket = fds.next().filter(|_| count == wanted);
    let socket = socket.ok_or_else(|| Refusal(format!("{count} descriptors in the place of {wanted}")))??;
    let peer = socket.peer_addr().map_err(refusal)?;
    if canonical(peer) != canonical(record.peer) {
        return Err(Refusal("a tunnel's socket of another peer".into()));
    }
    let apps: Vec<TcpStream> = fds.collect::<Result<_, _>>()?;
    if record.kind == Kind::OutboundTunnel {
        for (app, stream) in apps.iter().zip(&record.streams) {
            let client = app.peer_addr().map_err(refusal)?;
            if canonical(client) != canonical(stream.side.client) {
                return Err(Refusal("a socket of another client".into()));
            }
        }
    }
    Ok((socket, apps))
}
