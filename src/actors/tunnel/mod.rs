//! Tunnels to peers: an actor a peer, its connections spread over the shards.
//!
//! A shard that misses a tunnel asks the peer's actor once for all who wait there. The actor owns what it dialled: a
//! killed tunnel actor closes its peer's streams and nothing else.

pub mod dial;
pub mod pool;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dashmap::DashMap;
use ractor::ActorProcessingErr;
use tracing::Instrument;

use super::{
    pods::pod::Pod,
    shard::{PlaceError, Placed},
    telemetry::trace::span::{self, Kind, Step},
};
use crate::{
    protocols::{identity::Identity, outcome::Failure, route::Sans, tls::handshake::HandshakeError},
    supervisor::{
        Actor, ActorRef, Address, AddressError, ChildSpec, Described, DynamicChildren, Input, Restart,
        SetAside, StartError, TaskExit,
    },
};

/// Peers of a pod that may have a tunnel actor at a time.
pub const MAX_PEERS: usize = 4096;

/// What makes two streams share a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The peer's HBONE address.
    pub to: SocketAddr,
    /// Who the pod is.
    pub identity: Identity,
    /// Who the peer may be, in order.
    pub sans: Sans,
}

/// Why there is no tunnel. Nothing has been sent to the application.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The pod has no certificate.
    #[error("{0}")]
    Certificate(String),
    /// Nobody listens, or the way is barred.
    #[error("{to}: {error}")]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// No answer to TCP.
    #[error("{to}: no answer within {after:?}")]
    ConnectTimedOut {
        /// Where to.
        to: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// TLS failed.
    #[error("{to}: {error}")]
    Tls {
        /// Where to.
        to: SocketAddr,
        /// What was wrong.
        error: HandshakeError,
    },
    /// The peer is mute in TLS.
    #[error("{to}: TLS handshake not completed within {after:?}")]
    TlsTimedOut {
        /// Where to.
        to: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The peer speaks something else inside TLS.
    #[error("{to}: peer does not speak h2")]
    Alpn {
        /// Where to.
        to: SocketAddr,
    },
    /// HTTP/2 could not be started.
    #[error("{to}: {error}")]
    Http2 {
        /// Where to.
        to: SocketAddr,
        /// What was wrong.
        error: String,
    },
    /// Tunnels keep filling up before this stream gets its place.
    #[error("every tunnel to the peer is full")]
    Contended,
    /// A bound is reached, or the shard is down.
    #[error("{0}")]
    Refused(String),
    /// The tunnel's actor is down and does not come back in time.
    #[error("{0}")]
    Lost(#[from] AddressError),
}

/// The tunnels of a pod. Cheap to clone.
#[derive(Clone)]
pub struct Tunnels {
    actors: Arc<DashMap<TunnelKey, Address<Msg>, foldhash::fast::RandomState>>,
    supervisor: DynamicChildren,
}

/// Messages of a tunnel actor.
pub enum Msg {
    /// A shard has no tunnel: dial one there. At most one is outstanding a shard (the pool joins misses).
    Open(usize, dial::Ready),
    /// A placed dial or driver has ended. At most one for each placed task.
    Ended(u64, TaskExit),
}

struct TunnelActor {
    pod: Arc<Pod>,
    key: TunnelKey,
}

struct TunnelState {
    next: u64,
    placed: Vec<(u64, Placed)>,
}

// === impl DialError ===

impl DialError {
    /// Whether the reason is here, so that another endpoint would not help.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Certificate(_) | Self::Refused(_))
    }

    /// How the connection that needed the tunnel ended.
    pub fn failure(&self) -> Failure {
        let text = self.to_string().into();
        match self {
            Self::Certificate(_) => Failure::Identity(text),
            Self::ConnectTimedOut { .. } => Failure::HboneTimeout(text),
            Self::Tls { .. } | Self::TlsTimedOut { .. } | Self::Alpn { .. } => Failure::Tls(text),
            Self::Http2 { .. } => Failure::H2Handshake(text),
            Self::Connect { .. } | Self::Contended | Self::Refused(_) | Self::Lost(_) => Failure::Dial(text),
        }
    }
}

// === impl Tunnels ===

impl Tunnels {
    /// No tunnels yet, of the pod `uid`.
    pub fn new(uid: &str) -> Self {
        Self { actors: Arc::default(), supervisor: DynamicChildren::new(&format!("pod/{uid}/tunnels")) }
    }

    /// The supervisor of the tunnel actors.
    pub fn supervisor(&self) -> &DynamicChildren {
        &self.supervisor
    }

    /// Number of peers with a tunnel actor.
    pub fn len(&self) -> usize {
        self.actors.len()
    }

    /// Whether no peer has a tunnel actor.
    pub fn is_empty(&self) -> bool {
        self.actors.is_empty()
    }

    /// Has a tunnel to `key` dialled on shard `index`; it is in the shard's pool when this returns.
    ///
    /// # Errors
    /// See [`DialError`]; bounded by the sum of the steps' timeouts.
    pub async fn open(&self, pod: &Arc<Pod>, key: &TunnelKey, index: usize) -> Result<(), Arc<DialError>> {
        let name = key.to.to_string();
        pod.node.quarantine.check(&key.input(&name)).map_err(|aside| Arc::new(key.refused(aside)))?;
        let timeouts = &pod.node.settings.timeouts;
        let patience = timeouts.certificate + timeouts.connect + timeouts.tls + timeouts.http2;
        // An actor that ended, idle or killed, while the question was on its way: its successor is asked.
        for last in [false, true] {
            let address = self.actor(pod, key).await.map_err(Arc::new)?;
            match address.call(patience, |reply| Msg::Open(index, reply)).await {
                Ok(dialled) => return dialled,
                Err(AddressError::Lost { .. } | AddressError::Down { .. }) if !last => {
                    span::actor_lost("tunnel")
                }
                Err(error) => return Err(Arc::new(error.into())),
            }
        }
        Err(Arc::new(DialError::Contended))
    }

    /// The actor of `key`, started if there is none.
    async fn actor(&self, pod: &Arc<Pod>, key: &TunnelKey) -> Result<Address<Msg>, DialError> {
        // One that is not up is started here too: whoever should have done it may be gone, or the supervisor was
        // replaced and has forgotten it.
        let known = self.actors.get(key).map(|address| address.clone());
        if let Some(address) = known.as_ref().filter(|address| is_up(address)) {
            return Ok(address.clone());
        }
        if known.is_none() && self.actors.len() >= MAX_PEERS {
            return Err(DialError::Refused(format!("the pod has tunnels to {MAX_PEERS} peers already")));
        }
        let id = key.id();
        let mut fresh = false;
        let new = || {
            fresh = true;
            Address::new(&id)
        };
        let address = self.actors.entry(key.clone()).or_insert_with(new).clone();
        let (pod, owned) = (pod.clone(), key.clone());
        let make = move || (TunnelActor { pod: pod.clone(), key: owned.clone() }, ());
        let id: Arc<str> = id.into();
        let spec =
            ChildSpec::actor(id.clone(), &address, make).restart(Restart::Transient).kind_label("tunnel");
        let mut started = self.supervisor.start(spec.clone()).await;
        if fresh && matches!(started, Err(StartError::Duplicate { .. })) {
            // The key's former actor has left the map and is on its way out. It knows another address: nobody would
            // ever be behind this one.
            let _ = self.supervisor.stop(&id).await;
            started = self.supervisor.start(spec).await;
        }
        match started {
            Ok(()) => Ok(address),
            // Somebody else starts it just now, or its supervisor restarts it.
            Err(StartError::Duplicate { .. }) if !fresh => Ok(address),
            Err(error) => {
                self.actors.remove_if(key, |_, held| held.actor_id() == address.actor_id());
                Err(DialError::Refused(error.to_string()))
            }
        }
    }
}

fn is_up(address: &Address<Msg>) -> bool {
    address.current().is_some_and(|actor| actor.is_up())
}

// === impl TunnelKey ===

impl TunnelKey {
    /// The peer as an input; `name` is its address.
    fn input<'a>(&self, name: &'a str) -> Input<'a> {
        Input { kind: "peer", name, digest: 0 }
    }

    /// Nothing is dialled there for now; another endpoint may help.
    fn refused(&self, aside: SetAside) -> DialError {
        DialError::Connect { to: self.to, error: std::io::Error::other(aside) }
    }

    /// Name of the actor: unique for each key, readable for the first of an address.
    fn id(&self) -> String {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        std::hash::Hash::hash(self, &mut hasher);
        format!("{}-{:016x}", self.to, hasher.finish())
    }
}

// === impl TunnelActor ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Open(..) => "open",
            Self::Ended(..) => "ended",
        }
    }
}

impl Actor for TunnelActor {
    type Msg = Msg;
    type State = TunnelState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<TunnelState, ActorProcessingErr> {
        Ok(TunnelState { next: 0, placed: Vec::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut TunnelState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Open(shard, ready) => self.open(&myself, shard, ready, state),
            Msg::Ended(id, exit) => {
                state.placed.retain(|(placed, _)| *placed != id);
                if let TaskExit::Panicked { message } = exit {
                    self.pod.node.metrics.actors.task_panicked("tunnel/dial");
                    tracing::error!(target: "tunnel", to = %self.key.to, message, "tunnel task panicked");
                }
                if state.placed.is_empty() {
                    // Nothing is left to own. Who asks from now on finds the actor gone and starts another.
                    if let Some((_, address)) = self.pod.tunnels.actors.remove(&self.key)
                        && address.actor_id() == Some(myself.id())
                    {
                        // Or who has looked just before would wait for a restart that never comes.
                        address.retire();
                    }
                    myself.stop(Some("no tunnel left".into()));
                }
            }
        }
        Ok(())
    }
}

impl TunnelActor {
    fn open(&self, myself: &ActorRef<Msg>, shard: usize, ready: dial::Ready, state: &mut TunnelState) {
        let id = state.next;
        state.next += 1;
        let (pod, key, actor) = (self.pod.clone(), self.key.clone(), myself.clone());
        // The handler runs inside the span of the connection that asked, which the message carried here.
        let span = tracing::debug_span!(target: "tunnel", "dial", to = %key.to, shard);
        let step = Step::new("tunnel dial", Kind::Client);
        step.describe(|span| {
            span.addr(span::PEER, key.to).set("warren.shard", i64::try_from(shard).unwrap_or_default());
        });
        let make = move |shard| dial::run(shard, pod, key, (step, ready)).instrument(span);
        // A message to an actor that is gone means that the actor's end was the reason.
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(id, exit)));
        match self.pod.node.shards.place("tunnel/dial", shard, make, on_exit) {
            Ok(placed) => state.placed.push((id, placed)),
            Err(error @ (PlaceError::Busy(_) | PlaceError::Down(_))) => {
                // Dropping the reply port tells the asker, who tries once more; `on_exit` has been called.
                tracing::warn!(target: "tunnel", to = %self.key.to, %error, "tunnel not dialled");
            }
        }
    }
}
