//! The audit of the pods finds faults that crash no actor. One actor audits all pods.
//!
//! The audit examines a new pod, a changed pod, an unhealthy pod every second, and every pod every 30 s. The kernel
//! reports changes of nf_tables rules. A look at each pod every second finds lost accept loops, interfaces that are
//! down and changed tables of the legacy `iptables`. A look takes microseconds. With each look the audit names pods that
//! istio-cni has not handed over.

mod enrolment;
mod examine;

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ractor::ActorProcessingErr;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

pub(crate) use self::enrolment::EnrolmentSources;
use self::{
    enrolment::EnrolmentAudit,
    examine::{Finding, examine},
};
use super::{capture::Msg as CaptureMsg, node::Node, pod::Pod, table::PodTable};
use crate::{
    actors::HUNG_AFTER,
    dataplane::listener::ListenerKind,
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask},
    sys::{
        interface::Interface,
        netns_fingerprint::NetnsFingerprint,
        rule_events::{RuleEventQueue, RuleEvents},
    },
};

/// The time between two looks at a pod.
/// Limit: time between two looks at a pod: 1 s; past it: the pod is looked at.
const AUDIT_INTERVAL: Duration = Duration::from_secs(1);
/// The number of pods that one round looks at. If the node has more pods, the pods take turns.
/// Limit: pods looked at in one go: 500; past it: pods take turns.
const PODS_PER_AUDIT: usize = 500;
/// The time until an unchanged pod is examined again, give or take [`EXAMINATION_JITTER`]: some changes leave no
/// trace.
/// Limit: time until a pod in which nothing has changed is examined again: 30 s, spread by 10 %; past it: the pod is
/// examined.
const EXAMINATION_INTERVAL: Duration = Duration::from_secs(30);
/// The relative spread of [`EXAMINATION_INTERVAL`], which separates the examinations of pods that came at once.
/// No limit: the spread of a pause.
const EXAMINATION_JITTER: f64 = 0.1;
/// The least time between two examinations of a pod, however often the pod changes.
/// Limit: examinations of a pod: one in 500 ms; past it: the next one waits.
const EXAMINATION_GAP: Duration = Duration::from_millis(500);
/// The least time between two reads of the kernel's rule events.
/// Limit: looks for what the kernel has told: one in 100 ms; past it: the next one waits.
const RULE_EVENTS_GAP: Duration = Duration::from_millis(100);

/// The audits of all pods. The audit book outlives the actor, which empties the book when it starts.
#[derive(Clone)]
pub(crate) struct Audits {
    pods: PodTable,
    node: Arc<Node>,
    book: Arc<AuditBook>,
    /// Absent where nobody hands pods over, or the proxy does not know its node.
    enrolment: Option<Arc<EnrolmentAudit>>,
}

/// The audit book: one entry for each pod, by the serial number of the pod.
#[derive(Debug, Default)]
struct AuditBook(Mutex<BTreeMap<u64, Entry>>);

/// The entry of a pod in the audit book.
struct Entry {
    pod: Arc<Pod>,
    rules: Option<RuleEvents>,
    /// The interface that was up at the last look.
    interface: Option<Interface>,
    /// The state of the pod when the last examination found no fault.
    sound: Option<LastSound>,
    /// Whether the last examination found a fault.
    wrong: bool,
    /// Whether the pod has changed since the running examination began.
    changed: bool,
    under_way: Option<AbortHandle>,
    not_before: Instant,
}

/// The state of a pod when the last examination found no fault.
struct LastSound {
    /// The fingerprint of the pod's network. The proxy's own pod has none: that pod has no rules and uses the host's
    /// network.
    fingerprint: Option<NetnsFingerprint>,
    until: Instant,
}

/// The reason why a pod is examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Unknown,
    Wrong,
    Rules,
    Look,
    Time,
}

/// The result of an examination.
struct Examined {
    serial: u64,
    /// The state of the pod before the examination; `None` where a later change would not show.
    before: Option<LastSound>,
    finding: Finding,
}

struct Audit(Audits);

/// Messages of the audit actor.
enum Msg {
    /// The auditor task has ended. The message is sent at most once.
    Lost,
}

/// The state of the auditor task, which looks at the pods and runs examinations.
struct Auditor {
    audits: Audits,
    running: JoinSet<Examined>,
    /// The serial number of the pod that was looked at last.
    last: u64,
    rng: SmallRng,
}

// === impl Audits ===

impl Audits {
    /// Makes the audits of `pods` with an empty book.
    pub(crate) fn new(pods: PodTable, node: Arc<Node>, enrolment: Option<EnrolmentSources>) -> Self {
        let enrolment = enrolment.map(|sources| Arc::new(EnrolmentAudit::new(sources)));
        Self { pods, node, book: Arc::default(), enrolment }
    }

    /// The audit actor as a child of a supervisor.
    pub(crate) fn child(&self) -> ChildSpec {
        let audits = self.clone();
        let make = move || (Audit(audits.clone()), ());
        ChildSpec::actor("audit", &Address::new("audit"), make).kind_label("audit").hung_after(HUNG_AFTER)
    }

    /// Removes a pod from the audit book and drops all resources of the entry.
    pub(crate) fn forget(&self, serial: u64) {
        self.book.0.lock().remove(&serial);
    }
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Lost => "lost",
        }
    }
}

impl Actor for Audit {
    type Msg = Msg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        self.0.book.0.lock().clear();
        let told =
            RuleEventQueue::new().map_err(|error| format!("cannot wait for word of rules: {error}"))?;
        let lost = move |_| drop(myself.cast(Msg::Lost));
        Ok(OwnedTask::spawn("audit/look", look(self.0.clone(), told), lost))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Lost: Msg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        Err("the audits of the pods ended".into())
    }
}

async fn look(audits: Audits, told: RuleEventQueue) {
    let mut replaced = audits.node.shards.replaced();
    let (running, rng) = (JoinSet::new(), SmallRng::from_os_rng());
    let mut auditor = Auditor { audits, running, last: 0, rng };
    let mut looks = interval(AUDIT_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calm = Instant::now();
    loop {
        let changed = async {
            sleep_until(calm).await;
            told.ready().await
        };
        tokio::select! {
            _ = looks.tick() => {
                auditor.look(&told);
                if let Some(enrolment) = &auditor.audits.enrolment {
                    enrolment.look(&auditor.audits.node, &auditor.audits.pods);
                }
            }
            changed = changed => match changed {
                Ok(changed) => {
                    calm = Instant::now() + RULE_EVENTS_GAP;
                    auditor.rules_changed(&changed, &told);
                }
                Err(error) => return tracing::error!(target: "audit", %error, "no word of rules any more"),
            },
            Some(examined) = auditor.running.join_next() => auditor.finish(examined),
            Ok(()) = replaced.changed() => auditor.shard_replaced(),
        }
    }
}

// === impl AuditBook ===

impl AuditBook {
    /// Reads the state of a pod before an examination; `None` where a later change would not show.
    fn before(&self, serial: u64, lasts: Duration) -> Option<LastSound> {
        let mut book = self.0.lock();
        let entry = book.get_mut(&serial)?;
        let until = Instant::now() + lasts;
        if !entry.pod.is_redirected() {
            return Some(LastSound { fingerprint: None, until });
        }
        let fingerprint = entry.fingerprint()?;
        entry.interface = Some(fingerprint.interface());
        Some(LastSound { fingerprint: Some(fingerprint), until })
    }
}

// === impl Entry ===

impl Entry {
    /// The reason to examine the pod now, if there is one.
    fn cause(&self, now: Instant) -> Option<Cause> {
        if self.under_way.is_some() || now < self.not_before {
            return None;
        }
        match &self.sound {
            _ if self.changed => Some(Cause::Rules),
            None if self.wrong => Some(Cause::Wrong),
            None => Some(Cause::Unknown),
            Some(sound) if now >= sound.until => Some(Cause::Time),
            Some(sound) => (!sound.holds(&self.pod)).then_some(Cause::Look),
        }
    }

    fn fingerprint(&self) -> Option<NetnsFingerprint> {
        let listeners = self.pod.listeners.sockets.lock();
        let listener = listeners.get(&ListenerKind::Outbound)?;
        let take = || NetnsFingerprint::take(listener, self.rules.as_ref(), self.interface);
        self.pod.network().netns.enter(take).and_then(|taken| taken).ok()?
    }

    /// Subscribes to the pod's rule events if no subscription exists. Returns whether all changes of rules show from
    /// now on.
    fn listen(&mut self, told: &RuleEventQueue) -> bool {
        if self.rules.is_some() || !self.pod.is_redirected() {
            return true;
        }
        let opened = self.pod.network().netns.enter(RuleEvents::open).and_then(|opened| opened);
        let added = opened.and_then(|rules| match rules {
            Some(rules) => told.add(&rules, self.pod.id.serial).map(|()| Some(rules)),
            None => Ok(None),
        });
        match added {
            Ok(rules) => {
                self.rules = rules;
                true
            }
            Err(error) => {
                tracing::debug!(target: "audit", uid = &*self.pod.id.uid, %error, "no word of changed rules");
                false
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The examination holds sockets in the pod's namespace, which is about to be removed.
        if let Some(under_way) = &self.under_way {
            under_way.abort();
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("pod", &self.pod.id.uid).finish_non_exhaustive()
    }
}

// === impl LastSound ===

impl LastSound {
    /// Whether the pod is still in this state. The check needs no system call for a listener: a listener that is shut
    /// down ends its accept loops.
    fn holds(&self, pod: &Pod) -> bool {
        let shards = pod.node.shards.living();
        let accepts = |kind: &ListenerKind| pod.listeners.accept_loops.count(*kind) >= shards;
        let listeners = pod.listeners.sockets.lock();
        let steady = |fingerprint: &NetnsFingerprint| {
            listeners.get(&ListenerKind::Outbound).is_some_and(|listener| fingerprint.is_steady(listener))
        };
        pod.kinds().iter().all(accepts) && self.fingerprint.as_ref().is_none_or(steady)
    }
}

// === impl Cause ===

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Wrong => "wrong",
            Self::Rules => "rules",
            Self::Look => "look",
            Self::Time => "time",
        }
    }
}

// === impl Auditor ===

impl Auditor {
    /// Looks at the next pods, at most [`PODS_PER_AUDIT`], and begins the examinations that are due.
    fn look(&mut self, told: &RuleEventQueue) {
        self.register();
        let now = Instant::now();
        let looked: Vec<(u64, Option<Cause>)> = {
            let book = self.audits.book.0.lock();
            let after = book.range((Bound::Excluded(self.last), Bound::Unbounded));
            let round = after.chain(book.range(..=self.last)).take(PODS_PER_AUDIT);
            round.map(|(serial, entry)| (*serial, entry.cause(now))).collect()
        };
        self.last = looked.last().map_or(0, |(serial, _)| *serial);
        for (serial, cause) in looked {
            if let Some(cause) = cause {
                self.begin(serial, cause, told);
            }
        }
    }

    /// Adds new pods to the audit book and removes pods that have ended or drain.
    fn register(&mut self) {
        let pods = self.audits.pods.all();
        // The first examinations of pods that came at once are spread over the interval.
        let spread = AUDIT_INTERVAL.mul_f64(1.0_f64.max(pods.len() as f64 / PODS_PER_AUDIT as f64));
        let mut book = self.audits.book.0.lock();
        book.retain(|_, entry| !entry.pod.conns().is_draining());
        for pod in pods.into_iter().filter(|pod| !pod.conns().is_draining()) {
            let not_before = Instant::now() + spread.mul_f64(self.rng.random());
            book.entry(pod.id.serial).or_insert(Entry {
                pod,
                rules: None,
                interface: None,
                sound: None,
                wrong: false,
                changed: false,
                under_way: None,
                not_before,
            });
        }
    }

    /// Handles the kernel's report that the rules of these pods have changed.
    fn rules_changed(&mut self, serials: &[u64], told: &RuleEventQueue) {
        for &serial in serials {
            let cause = {
                let mut book = self.audits.book.0.lock();
                let Some(entry) = book.get_mut(&serial) else { continue };
                if let Some(rules) = &entry.rules {
                    rules.drain();
                }
                entry.changed = true;
                entry.cause(Instant::now())
            };
            if let Some(cause) = cause {
                self.begin(serial, cause, told);
            }
        }
    }

    /// Begins the examination of a pod.
    fn begin(&mut self, serial: u64, cause: Cause, told: &RuleEventQueue) {
        let lasts = EXAMINATION_INTERVAL
            .mul_f64(self.rng.random_range(1.0 - EXAMINATION_JITTER..1.0 + EXAMINATION_JITTER));
        let book = self.audits.book.clone();
        let mut entries = book.0.lock();
        let Some(entry) = entries.get_mut(&serial) else { return };
        tracing::debug!(target: "audit", uid = &*entry.pod.id.uid, cause = cause.as_str(), "examined");
        let shows = entry.listen(told);
        // The flag is cleared before the examination, so that a change during the examination counts.
        entry.changed = false;
        entry.not_before = Instant::now() + EXAMINATION_GAP;
        let (pod, wrong, theirs) = (entry.pod.clone(), entry.wrong, book.clone());
        let examining = async move {
            let before = theirs.before(serial, lasts).filter(|_| shows);
            let has_network = before.as_ref().is_some_and(|before| before.fingerprint.is_some());
            let finding = examine(&pod, wrong, has_network).await;
            Examined { serial, before, finding }
        };
        entry.under_way = Some(self.running.spawn(examining));
    }

    fn finish(&mut self, examined: Result<Examined, JoinError>) {
        let Examined { serial, before, finding } = match examined {
            Ok(examined) => examined,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The pod of the examination has ended.
            Err(_) => return,
        };
        let mut book = self.audits.book.0.lock();
        let Some(entry) = book.get_mut(&serial) else { return };
        entry.under_way = None;
        entry.sound = before.filter(|_| finding == Finding::Sound);
        entry.wrong = match finding {
            Finding::Unclear => entry.wrong,
            Finding::Sound => false,
            Finding::Wrong(_) => true,
        };
        let pod = entry.pod.clone();
        drop(book);
        if pod.conns().is_draining() {
            return;
        }
        match finding {
            Finding::Unclear => {}
            Finding::Sound => pod.node.unhealthy.tell(&pod.id, None),
            Finding::Wrong(why) => pod.node.unhealthy.tell(&pod.id, Some(why)),
        }
    }

    /// Tells the capture actors that a shard has another thread, so that the actors place their accept loops there.
    fn shard_replaced(&self) {
        for pod in self.audits.pods.all() {
            for &kind in pod.kinds() {
                // A capture actor that is just starting places its loops without this message.
                let _ = pod.captures.of(kind).cast(CaptureMsg::ShardReplaced);
            }
        }
    }
}
