//! The certificate actor receives messages, asks the schedule, and performs the effects that the schedule returns.

use std::{collections::HashMap, sync::Arc};

use ractor::{ActorProcessingErr, RpcReplyPort};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    shared::{CertsConfig, Shared, log_dropped},
    store::Published,
};
use crate::{
    actors::quarantine::Input,
    protocols::{
        ca::{
            CertError, IssueError,
            chain::Chain,
            csr,
            schedule::{Effect, Event, Lifetime, Now, Schedule, Ticket, Waiter},
        },
        identity::Identity,
        tls::WorkloadCert,
    },
    supervisor::{Actor, ActorRef, Described, OwnedTask, TaskExit},
    telemetry::{
        events::EventKind,
        trace::span::{SpanKind, Step},
    },
};

pub(super) type Reply = RpcReplyPort<Result<Arc<WorkloadCert>, CertError>>;

/// Messages of the certificate actor.
pub(super) enum Msg {
    /// A connection asks for a certificate. The handle's semaphore bounds the number of these messages.
    Fetch(Identity, Reply),
    /// The mesh tables ask for a certificate ahead of need. The permit bounds the number of these messages.
    Prefetch(Identity, OwnedSemaphorePermit),
    /// The mesh tables removed identities. One message covers all removals that the actor has not handled.
    Forget,
    /// A request of the actor has ended. Each of the actor's tasks sends one message.
    Issued(Identity, Ticket, Result<Arc<WorkloadCert>, IssueError>),
    /// The actor's timer has expired. At most one tick is outstanding.
    Tick,
}

/// The actor that owns the schedule, the requests in flight and the timer.
pub(super) struct CertsActor;

pub(super) struct State {
    shared: Arc<Shared>,
    schedule: Schedule<Arc<WorkloadCert>, Caller>,
    rng: SmallRng,
    requests: HashMap<Ticket, OwnedTask>,
    wake: Option<(Instant, OwnedTask)>,
    /// The span of the caller whose message is being handled.
    asker: Option<tracing::Span>,
}

/// A connection that waits for a certificate, and the span of the wait.
pub(super) struct Caller(Reply, Step);

// === impl Caller ===

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl Lifetime for Arc<WorkloadCert> {
    fn not_before(&self) -> std::time::SystemTime {
        WorkloadCert::not_before(self)
    }

    fn not_after(&self) -> std::time::SystemTime {
        WorkloadCert::not_after(self)
    }
}

// === impl CertsActor ===

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Fetch(..) => "fetch",
            Self::Prefetch(..) => "prefetch",
            Self::Forget => "forget",
            Self::Issued(..) => "issued",
            Self::Tick => "tick",
        }
    }
}

impl Actor for CertsActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        shared: Arc<Shared>,
    ) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            schedule: Schedule::new(shared.config.limits),
            rng: SmallRng::from_os_rng(),
            requests: HashMap::new(),
            wake: None,
            asker: None,
            shared,
        };
        for (id, known) in state.shared.store.all() {
            state.on(&myself, Event::Adopt { id, cert: known.cert });
        }
        state.forget_unheard(&myself);
        state.arm(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.forget_unheard(&myself);
        match message {
            Msg::Fetch(id, reply) => {
                // The step is inside the span of the caller, which the message carries.
                let step = Step::new("certificate fetch", SpanKind::Internal);
                step.describe(|span| _ = span.set("warren.identity", id.to_string()));
                state.asker = Some(step.span().clone());
                state.on(&myself, Event::Fetch { id, waiter: Caller(reply, step) });
                state.asker = None;
            }
            Msg::Prefetch(id, _permit) => state.on(&myself, Event::Prefetch { id }),
            // The identities are forgotten above, before each message.
            Msg::Forget => {}
            Msg::Issued(id, ticket, result) => {
                state.requests.remove(&ticket);
                state.on(&myself, Event::Issued { id, ticket, result });
            }
            Msg::Tick => {
                state.wake = None;
                state.on(&myself, Event::Tick);
            }
        }
        state.arm(&myself);
        Ok(())
    }
}

// === impl State ===

impl State {
    fn now(&self) -> Now {
        Now { mono: Instant::now().into_std(), wall: self.shared.wall() }
    }

    fn on(&mut self, myself: &ActorRef<Msg>, event: Event<Arc<WorkloadCert>, Caller>) {
        let now = self.now();
        for effect in self.schedule.on(now, event, &mut self.rng) {
            match effect {
                Effect::Start { id, ticket } => self.start(myself, id, ticket),
                Effect::Cancel { ticket } => drop(self.requests.remove(&ticket)),
                Effect::Publish { id, cert, failure } => self.publish(id, Published { cert, failure }),
                Effect::Remove { id } => self.shared.store.remove(&id),
                // A caller that has given up does not read the answer.
                Effect::Reply { waiter: Caller(reply, step), result } => {
                    step.describe(|span| _ = span.result("certificate", &result));
                    drop(step);
                    drop(reply.send(result));
                }
                Effect::Dropped { id } => log_dropped(&id),
            }
        }
    }

    /// Starts a request. Exactly one [`Msg::Issued`] follows unless the request is cancelled.
    fn start(&mut self, myself: &ActorRef<Msg>, id: Identity, ticket: Ticket) {
        let (shared, actor, whose) = (self.shared.clone(), myself.clone(), id.clone());
        // A request ahead of need, or a repeated request, is a trace of its own.
        let step = Step::inside(self.asker.as_ref(), "certificate request", SpanKind::Client);
        step.describe(|span| {
            let span =
                span.set("rpc.system", "grpc").set("rpc.service", "istio.v1.auth.IstioCertificateService");
            span.set("rpc.method", "CreateCertificate").set("warren.identity", id.to_string());
        });
        let work = async move {
            let after = shared.config.request_timeout;
            let result = match tokio::time::timeout(after, step.within(issue(&shared, &whose))).await {
                Ok(result) => result,
                Err(_) => Err(IssueError::PeerSilent { after }),
            };
            step.describe(|span| _ = span.result("certificate", &result));
            drop(step);
            // The cast fails only when the actor and its waiting callers are gone.
            drop(actor.cast(Msg::Issued(whose, ticket, result)));
        };
        let (actor, whose) = (myself.clone(), id.clone());
        let on_exit = move |exit| {
            if let TaskExit::Panicked { message } = exit {
                drop(actor.cast(Msg::Issued(whose, ticket, Err(IssueError::LocalCrash(message)))));
            }
        };
        self.requests.insert(ticket, OwnedTask::spawn(format!("certs/request/{id}"), work, on_exit));
    }

    fn publish(&self, id: Identity, state: Published) {
        let (cert, failure) = (state.cert.clone(), state.failure.clone());
        let before = self.shared.store.publish(id.clone(), state).unwrap_or_default();
        match (cert, failure) {
            (cert, Some(reason)) => {
                let kept = cert.is_some_and(|c| !c.is_expired_at(self.shared.wall()));
                // Only the first failure in a row is logged: further failures would flood the log while an authority
                // is down.
                if before.failure.is_none() {
                    tracing::warn!(identity = %id, %reason, kept, "cannot renew certificate");
                    self.tell(|| format!("no certificate for {id}: {reason}"));
                } else {
                    tracing::debug!(identity = %id, %reason, kept, "still cannot renew certificate");
                }
            }
            (Some(cert), None) => {
                let unusable_roots = cert.unusable_roots();
                if unusable_roots > 0 {
                    tracing::warn!(identity = %id, unusable_roots, "left out roots that cannot verify anybody");
                }
                tracing::info!(identity = %id, serial = cert.serial(), "new certificate");
                self.tell(|| format!("new certificate for {id}"));
            }
            (None, None) => {}
        }
    }

    /// Tells of a certificate in the events.
    fn tell(&self, says: impl FnOnce() -> String) {
        self.shared.config.events.tell(EventKind::Certificate, None, says);
    }

    /// Forgets the removed identities, including identities that were removed while no actor was running.
    fn forget_unheard(&mut self, myself: &ActorRef<Msg>) {
        for id in self.shared.store.take_unheard() {
            self.on(myself, Event::Forget { id });
        }
    }

    /// Makes sure that a tick comes when the schedule wants a tick. An armed timer that expires earlier is kept.
    fn arm(&mut self, myself: &ActorRef<Msg>) {
        let Some(at) = self.schedule.next_wake(self.now()).map(Instant::from_std) else {
            self.wake = None;
            return;
        };
        if self.wake.as_ref().is_some_and(|(armed, _)| *armed <= at) {
            return;
        }
        let (actor, told) = (myself.clone(), myself.clone());
        let tick = async move {
            tokio::time::sleep_until(at).await;
            drop(actor.cast(Msg::Tick));
        };
        // A tick that comes too early arms the timer again.
        let on_exit = move |exit| {
            if let TaskExit::Panicked { .. } = exit {
                drop(told.cast(Msg::Tick));
            }
        };
        self.wake = Some((at, OwnedTask::spawn("certs/timer", tick, on_exit)));
    }
}

/// Obtains one certificate: makes the key and the request, waits for the answer, and checks the answer.
async fn issue(shared: &Shared, id: &Identity) -> Result<Arc<WorkloadCert>, IssueError> {
    let name = id.to_string();
    let input = Input { kind: "identity", name: &name, digest: 0 };
    let admitted =
        shared.quarantine.enter(input).map_err(|aside| IssueError::LocalCrash(aside.to_string()))?;
    let cert = admitted.watch(ask(shared, id)).await?;
    admitted.done();
    Ok(cert)
}

async fn ask(shared: &Shared, id: &Identity) -> Result<Arc<WorkloadCert>, IssueError> {
    let csr = csr::request(id)?;
    let answer = shared.issuer.issue(id, csr.pem, shared.config.ttl).await?;
    let expected = shared.config.impersonate.then_some(id);
    let chain = Chain::parse(&answer, expected)?;
    let CertsConfig { tls, revocations, .. } = &shared.config;
    let cert = WorkloadCert::revocable(chain, &csr.key, tls, revocations.clone())
        .map_err(|e| IssueError::PeerCertificate(e.to_string()))?;
    Ok(Arc::new(cert))
}
