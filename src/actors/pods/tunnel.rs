//! Tunnels to peers: each peer has a tunnel actor, and the tunnels of the peer are spread over the shards.
//!
//! A shard without a tunnel asks the peer's actor once for all streams that wait on the shard. The actor owns the
//! tunnels that it dialled: a killed tunnel actor closes its peer's streams and no others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use foldhash::{HashMap, HashSet};
use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    actors::quarantine::{InQuarantine, Input, Quarantine},
    dataplane::{
        pod::panics,
        tunnel::{
            dial::{self, DialContext},
            dialer::{DialError, Dialer, Dialling, TunnelKey},
            pool::PodPool,
        },
    },
    runtime::shard::{PlaceError, Placed, Shard, Shards},
    supervisor::{
        Actor, ActorRef, Address, AddressError, ChildSpec, Described, DynamicChildren, Restart, StartError,
        TaskExit, faults,
    },
    telemetry::trace::span::{self, SpanKind, Step},
};

/// The number of peers of a pod that may have a tunnel actor at a time.
/// Limit: peers of a pod with tunnels: 16,384; past it: the connection fails.
const MAX_PEERS: usize = 16_384;
/// The number of peers of a pod past which tunnels without streams are not kept.
/// Limit: peers of a pod with tunnels that nobody uses: 4096; past it: the tunnels used longest ago are released.
const KEPT_PEERS: usize = 4096;
/// The number of peers that are released at a time.
/// Limit: peers released at a time: 256; past it: the next new peer has others released.
const RELEASED_AT_ONCE: usize = 256;
/// How long a shard may take to tell about its tunnels.
/// Limit: answer of a shard about its tunnels: 1 s; past it: the shard's tunnels are kept.
const SHARD_ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// The number of actors that are asked for a tunnel, one after the other, if each of them ends meanwhile.
/// Limit: actors of a peer that are asked for a tunnel: 4; past it: the connection fails.
const ACTORS_ASKED: usize = 4;
/// The number of parts of a pod's map of tunnel actors. Only a missed tunnel takes the lock of a part.
/// No limit: parts of a map, each with a lock of its own.
const PEER_MAP_SHARDS: usize = 2;

/// The tunnels of a pod to its peers.
pub(crate) struct Tunnels {
    actors: DashMap<TunnelKey, Address<Msg>, foldhash::fast::RandomState>,
    supervisor: DynamicChildren,
    ctx: Arc<DialContext>,
    shards: Shards,
    quarantine: Quarantine,
    /// The number of actors that were ever made.
    made: AtomicUsize,
    /// The number of peers at which unused tunnels are looked for next.
    look_at: AtomicUsize,
    looking: Mutex<()>,
}

/// The port for the result of a dial.
type Reply = RpcReplyPort<Result<(), Arc<DialError>>>;

/// Messages of a tunnel actor.
enum Msg {
    /// Dial a tunnel on a shard that has none, or has too few. The pool joins misses, so few are outstanding.
    Open(usize, Reply),
    /// A placed dial or driver has ended. Each placed task sends at most one.
    Ended(u64, TaskExit),
    /// The actor has left the map, and what was asked of it before is under way. At most one a placed task.
    Rest,
}

struct TunnelActor {
    tunnels: Arc<Tunnels>,
    key: TunnelKey,
    address: Address<Msg>,
}

struct TunnelState {
    next: u64,
    placed: Vec<(u64, Placed)>,
}

// === impl Tunnels ===

impl Tunnels {
    /// Makes an empty set of tunnels.
    pub(crate) fn new(ctx: Arc<DialContext>, shards: Shards, quarantine: Quarantine) -> Arc<Self> {
        let supervisor = DynamicChildren::new(&format!("pod/{}/tunnels", ctx.id.uid));
        let actors = DashMap::with_hasher_and_shard_amount(Default::default(), PEER_MAP_SHARDS);
        let (look_at, looking) = (AtomicUsize::new(KEPT_PEERS), Mutex::default());
        Arc::new(Self {
            actors,
            supervisor,
            ctx,
            shards,
            quarantine,
            made: AtomicUsize::new(1),
            look_at,
            looking,
        })
    }

    /// The supervisor of the tunnel actors.
    pub(crate) fn supervisor(&self) -> &DynamicChildren {
        &self.supervisor
    }

    /// Dials a tunnel to `key` on shard `index`. The tunnel is in the shard's pool when the call returns.
    ///
    /// # Errors
    /// See [`DialError`]. The sum of the steps' timeouts bounds the call.
    async fn open(self: &Arc<Self>, key: &TunnelKey, index: usize) -> Result<(), Arc<DialError>> {
        let name = self.input_name(key);
        self.quarantine.check(&input(&name)).map_err(|quarantined| refused(key, &quarantined))?;
        let timeouts = &self.ctx.config.timeouts;
        let within =
            timeouts.certificate + timeouts.connect + timeouts.client_handshake() + timeouts.h2_settings;
        // The actor may have ended, idle or killed, while the message was on its way. The next actor is asked then.
        for asked in 1..=ACTORS_ASKED {
            let address = self.actor(key).await.map_err(Arc::new)?;
            match address.call(within, |reply| Msg::Open(index, reply)).await {
                Ok(dialled) => return dialled,
                Err(AddressError::Lost { .. } | AddressError::Down { .. }) if asked < ACTORS_ASKED => {
                    span::actor_lost("tunnel")
                }
                Err(error) => return Err(Arc::new(DialError::Lost(Box::new(error)))),
            }
        }
        Err(Arc::new(DialError::Contended))
    }

    /// The address of the actor of `key`. The call starts the actor if no actor is up.
    async fn actor(self: &Arc<Self>, key: &TunnelKey) -> Result<Address<Msg>, DialError> {
        // An actor that is not up is started here, too. The caller that began its start may be gone, or a restarted
        // supervisor has forgotten the actor.
        let known = self.actors.get(key).map(|address| address.clone());
        if let Some(address) = known.as_ref().filter(|address| is_up(address)) {
            return Ok(address.clone());
        }
        if known.is_none() {
            self.make_room().await?;
        }
        // Each address has an actor of its own name, so a former actor that has left the map may take its time to end.
        let new = || Address::new(&format!("{}-{}", key.to, self.made.fetch_add(1, Relaxed)));
        let address = self.actors.entry(key.clone()).or_insert_with(new).clone();
        match self.supervisor.start(self.spec(key, &address)).await {
            // A duplicate: another caller starts the actor just now, or the supervisor restarts the actor.
            Ok(()) | Err(StartError::Duplicate { .. }) => Ok(address),
            Err(error) => {
                self.forget(key, &address);
                Err(DialError::Refused(error.to_string()))
            }
        }
    }

    /// Has tunnels released that were used longest ago, if the pod has many peers.
    async fn make_room(&self) -> Result<(), DialError> {
        let peers = self.actors.len();
        if peers >= self.look_at.load(Relaxed)
            && let Ok(_looking) = self.looking.try_lock()
        {
            let released = self.release_unused().await;
            // A look is work. If it finds nothing, the next one waits for more peers.
            self.look_at.store(KEPT_PEERS.max((peers + RELEASED_AT_ONCE).saturating_sub(released)), Relaxed);
        }
        if peers >= MAX_PEERS {
            return Err(DialError::Refused(format!("the pod has tunnels to {MAX_PEERS} peers already")));
        }
        Ok(())
    }

    /// Releases the tunnels that were used longest ago. Returns the number of their peers.
    async fn release_unused(&self) -> usize {
        let mut uses = HashMap::default();
        for index in 0..self.shards.count() {
            for (key, last) in self.ask(index, PodPool::last_uses).await.unwrap_or_default() {
                uses.entry(key).and_modify(|known| *known = later(*known, last)).or_insert(last);
            }
        }
        let keys = Arc::new(longest_unused(uses));
        for index in 0..self.shards.count() {
            let keys = keys.clone();
            self.ask(index, move |pool| pool.release(&keys)).await;
        }
        tracing::debug!(target: "tunnel", pod = &*self.ctx.id.uid, peers = keys.len(), "unused tunnels released");
        keys.len()
    }

    /// What `look` finds in the pod's pool on shard `index`.
    async fn ask<T: Send + 'static>(
        &self,
        index: usize,
        look: impl FnOnce(&PodPool) -> T + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let serial = self.ctx.id.serial;
        let job = move |shard: &Shard| {
            if let Some(pool) = PodPool::find(shard, serial) {
                // The caller may have gone.
                drop(tell.send(look(&pool)));
            }
        };
        self.shards.run_on(index, job).ok()?;
        timeout(SHARD_ANSWERS_WITHIN, told).await.ok()?.ok()
    }

    /// The name of the peer of `key` as an input of the quarantine. Other pods go on dialling a quarantined peer, because
    /// the pod's own state may be a reason of the crash.
    fn input_name(&self, key: &TunnelKey) -> String {
        format!("{} from {}", key.to, self.ctx.id.name())
    }

    /// Has the next caller start another actor in the place of the one at `address`.
    fn forget(&self, key: &TunnelKey, address: &Address<Msg>) {
        self.actors.remove_if(key, |_, held| held.name() == address.name());
    }

    fn spec(self: &Arc<Self>, key: &TunnelKey, address: &Address<Msg>) -> ChildSpec {
        let (tunnels, key, own) = (self.clone(), key.clone(), address.clone());
        let make =
            move || (TunnelActor { tunnels: tunnels.clone(), key: key.clone(), address: own.clone() }, ());
        ChildSpec::actor(address.name().clone(), address, make)
            .restart(Restart::Transient)
            .kind_label("tunnel")
    }
}

/// The dialer that the data plane uses to reach the tunnel actors.
pub(crate) struct PodDialer(Arc<Tunnels>);

// === impl PodDialer ===

impl PodDialer {
    /// Makes a dialer over the actors of `tunnels`.
    pub(crate) fn new(tunnels: Arc<Tunnels>) -> Self {
        Self(tunnels)
    }
}

impl Dialer for PodDialer {
    fn dial<'a>(&'a self, key: &'a TunnelKey, index: usize) -> Dialling<'a> {
        Box::pin(self.0.open(key, index))
    }

    fn panicked(&self, kind: &'static str, index: usize, message: &str) {
        panics::report(&self.0.ctx.metrics, &self.0.ctx.id, kind, index, message);
    }
}

/// The later of two last uses of a peer. `None`: the peer is in use.
fn later(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    Some(one?.max(other?))
}

/// The peers that were used longest ago, at most [`RELEASED_AT_ONCE`]. A peer in use is none of them.
fn longest_unused(uses: HashMap<TunnelKey, Option<Instant>>) -> HashSet<TunnelKey> {
    let mut unused: Vec<_> = uses.into_iter().filter_map(|(key, last)| Some((last?, key))).collect();
    unused.sort_unstable_by_key(|(last, _)| *last);
    unused.into_iter().take(RELEASED_AT_ONCE).map(|(_, key)| key).collect()
}

/// The peer of this name as an input of the quarantine.
fn input(name: &str) -> Input<'_> {
    Input { kind: "peer", name, digest: 0 }
}

/// The error for a quarantined peer. The caller may try another endpoint.
fn refused(key: &TunnelKey, quarantined: &InQuarantine) -> Arc<DialError> {
    Arc::new(DialError::Quarantined { to: key.to, why: quarantined.to_string() })
}

fn is_up(address: &Address<Msg>) -> bool {
    address.current().is_some_and(|actor| actor.is_up())
}

// === impl TunnelActor ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Open(..) => "open",
            Self::Ended(..) => "ended",
            Self::Rest => "rest",
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
                    self.tunnels.ctx.metrics.actors.task_panicked("tunnel/dial");
                    tracing::error!(target: "tunnel", to = %self.key.to, message, "tunnel task panicked");
                }
                if state.placed.is_empty() {
                    // The actor owns no tunnel any more and leaves the map. The next caller starts another actor.
                    self.tunnels.forget(&self.key, &self.address);
                    // Without this call, a caller that has just read the address would wait for a restart that never
                    // comes.
                    self.address.retire();
                    // Whoever has asked meanwhile is served first. The cast fails only if the actor has ended already.
                    let _ = myself.cast(Msg::Rest);
                }
            }
            Msg::Rest if state.placed.is_empty() => myself.stop(Some("no tunnel left".into())),
            Msg::Rest => {}
        }
        Ok(())
    }
}

impl TunnelActor {
    fn open(&self, myself: &ActorRef<Msg>, shard: usize, reply: Reply, state: &mut TunnelState) {
        let id = state.next;
        state.next += 1;
        let (tunnels, key, actor) = (self.tunnels.clone(), self.key.clone(), myself.clone());
        // The handler runs inside the span of the connection that asked, which the message carried here.
        let span = tracing::debug_span!(target: "tunnel", "dial", to = %key.to, shard);
        let step = Step::new("tunnel dial", SpanKind::Client);
        step.describe(|span| {
            span.addr(span::PEER, key.to).set("warren.shard", i64::try_from(shard).unwrap_or_default());
        });
        // The caller may have gone.
        let ready: dial::Ready = Box::new(move |dialled| drop(reply.send(dialled)));
        let make = move |shard| async move {
            let name = tunnels.input_name(&key);
            match tunnels.quarantine.enter(input(&name)) {
                Ok(admitted) => {
                    let dialling = async {
                        // Faults on purpose name the peer, for whichever pod.
                        faults::trip(&key.to.to_string());
                        dial::run(shard, tunnels.ctx.clone(), key, step, ready).await
                    };
                    // The watch lasts for the tunnel's life: later bytes of the peer can crash the tunnel's driver,
                    // too.
                    if admitted.watch(dialling.instrument(span)).await {
                        admitted.done();
                    }
                }
                Err(quarantined) => ready(Err(refused(&key, &quarantined))),
            }
        };
        // If the actor is gone, the end of the actor was the reason, and the message is not needed.
        let on_exit = move |exit| drop(actor.cast(Msg::Ended(id, exit)));
        match self.tunnels.shards.place("tunnel/dial", shard, make, on_exit) {
            Ok(placed) => state.placed.push((id, placed)),
            Err(error @ (PlaceError::Busy(_) | PlaceError::Down(_))) => {
                // The drop of the reply port tells the caller, which tries once more; `on_exit` has been called.
                tracing::warn!(target: "tunnel", to = %self.key.to, %error, "tunnel not dialled");
            }
        }
    }
}

#[cfg(test)]
mod tests;
