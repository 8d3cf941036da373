//! Connections of clients that name their destination by SOCKS 5 (docs/spec/dataplane.md 3.5).
//!
//! A client asks on the loopback address of its pod. Once the destination is known, the connection is served as if the
//! client had been redirected on its way there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::seq::IndexedRandom as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    accepted::Accepted,
    dns::{
        DnsContext,
        resolve::{self, Unnamed},
    },
    outbound,
    outbound_context::OutboundContext,
    pod::{
        conns::{Carried, ConnInfo},
        departure::Departure,
    },
};
use crate::{
    protocols::{
        addr::OrigDst,
        dns::lookup::Family,
        labels::Reporter,
        socks5::{self, Reply, SocksError, Target},
    },
    runtime::shard::Shard,
};

/// The time in which a client must have asked for its destination.
/// Limit: greeting and request of a SOCKS client: 5 s; past it: the connection is closed.
const SOCKS_REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// The time in which the name of a destination must be found.
/// Limit: lookup of the name that a SOCKS client asks for: 10 s; past it: the client is told of a general failure.
const SOCKS_NAME_WITHIN: Duration = Duration::from_secs(10);

/// The time in which a refused client may take its reply.
/// Limit: wait for the end of a refused SOCKS client: 1 s, 4096 bytes; past it: the reply may be lost.
const SOCKS_LINGER: Duration = Duration::from_secs(1);
/// No limit: a part of the bound above.
const SOCKS_LINGER_BYTES: u64 = 4096;

/// The context of a pod's SOCKS listener.
pub(crate) struct SocksContext {
    /// The context of connections whose destination is known.
    pub(crate) outbound: Arc<OutboundContext>,
    /// The pod's DNS proxy, which knows the names.
    pub(crate) dns: Arc<DnsContext>,
}

/// The reason why a client is not served.
#[derive(Debug, thiserror::Error)]
enum Unserved {
    #[error("{0}")]
    Protocol(#[from] SocksError),
    #[error("client has not asked within {SOCKS_REQUEST_WITHIN:?}")]
    Slow,
    #[error("{0}: {1}")]
    Name(String, Unnamed),
    #[error("{0}: not found within {SOCKS_NAME_WITHIN:?}")]
    SlowName(String),
    #[error("{0} has no address")]
    NoAddress(String),
}

/// Serves a connection accepted on 15080.
pub(crate) async fn serve(accepted: Accepted<SocksContext, TcpStream>) {
    let Accepted { ctx, arriving, shard, mut stream, peer } = accepted;
    // The set of live connections has the client from the first, so that a drain or the end of the pod cuts the client.
    let info = ConnInfo {
        reporter: Reporter::Source,
        src: peer,
        identity: None,
        dst: stream.local_addr().unwrap_or(peer),
        waits: false.into(),
        host: None,
        next_hop: None.into(),
        departure: Departure::default(),
        carried: Carried::default(),
    };
    let Ok(asking) = ctx.outbound.conns.live.admit(shard.index(), info) else { return };
    let asked = asking.guard(Box::pin(ask(&ctx, &shard, &mut stream))).await;
    let uid = &*ctx.outbound.pod.id.uid;
    let dst = match asked {
        Ok(Ok(dst)) => dst,
        Ok(Err(error)) => {
            return tracing::debug!(target: "conn", uid, %peer, %error, "SOCKS client not served");
        }
        Err(_) => return,
    };
    // `arriving` makes a drain wait until the connection is in the set again.
    drop(asking);
    let accepted = Accepted { ctx: ctx.outbound.clone(), arriving, shard, stream, peer };
    outbound::serve_to(accepted, OrigDst::new(dst)).await;
}

/// The destination that the client asks for. The client has its reply.
async fn ask(ctx: &SocksContext, shard: &Shard, stream: &mut TcpStream) -> Result<SocketAddr, Unserved> {
    let found = match timeout(SOCKS_REQUEST_WITHIN, socks5::accept(stream)).await {
        Ok(Ok(Target::Addr(addr))) => Ok(addr),
        Ok(Ok(Target::Host { host, port })) => {
            find(ctx, shard, host).await.map(|ip| SocketAddr::new(ip, port))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Unserved::Slow),
    };
    let reply = found.as_ref().map_or_else(Unserved::reply, |_| Some(Reply::Granted));
    if let Some(reply) = reply {
        socks5::reply(stream, reply).await.map_err(SocksError::from)?;
    }
    if found.is_err() {
        linger(stream).await;
    }
    found
}

/// Lets a refused client take its reply: a close with bytes that are not read would reset the connection.
async fn linger(stream: &mut TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(SOCKS_LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Either way the connection is closed.
    let _ = timeout(SOCKS_LINGER, rest).await;
}

/// One of the addresses of `host`. The listener has an IPv4 address, and so have its clients.
async fn find(ctx: &SocksContext, shard: &Shard, host: String) -> Result<IpAddr, Unserved> {
    let found = match timeout(SOCKS_NAME_WITHIN, resolve::addresses(&ctx.dns, &host, Family::V4)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(Unserved::Name(host, error)),
        Err(_) => return Err(Unserved::SlowName(host)),
    };
    found.choose(&mut *shard.rng.borrow_mut()).copied().ok_or(Unserved::NoAddress(host))
}

// === impl Unserved ===

impl Unserved {
    fn reply(&self) -> Option<Reply> {
        match self {
            Self::Protocol(error) => error.reply(),
            Self::Slow => None,
            Self::Name(_, Unnamed::Off) => Some(Reply::Unsupported),
            Self::Name(..) | Self::SlowName(_) => Some(Reply::Failed),
            Self::NoAddress(_) => Some(Reply::Unreachable),
        }
    }
}
