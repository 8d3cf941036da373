use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::{
    actors::control::certs::{issuer::Issuing, shared::REQUEST_TIMEOUT, store::Published},
    protocols::{
        ca::IssueError,
        config::TlsConfig,
        tls::test_ca::{TestCa, seconds_from_now},
    },
    supervisor::{ActorRef, Strategy, SupervisorSpec, Tree, faults, run_alone},
};

/// The state of an identity. The texts are those of docs/spec/controlplane.md 7.2.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CertState {
    /// No attempt has ended yet.
    Initializing,
    /// A valid certificate exists.
    Available,
    /// No valid certificate exists, for this reason.
    Unavailable(String),
}

/// The state of one identity, as a snapshot shows it.
#[derive(Clone, Debug)]
struct CertSnapshot {
    /// The identity.
    identity: Identity,
    /// The state of the identity.
    state: CertState,
    /// The newest certificate, which may have expired: see [`WorkloadCert::path`] and [`WorkloadCert::roots`].
    cert: Option<Arc<WorkloadCert>>,
    /// The last failure since the certificate came, even while the certificate is still valid.
    failure: Option<Arc<IssueError>>,
}

// === impl CertSnapshot ===

impl CertSnapshot {
    fn of(identity: Identity, published: Published, wall: SystemTime) -> Self {
        let Published { cert, failure } = published;
        let valid = cert.as_ref().is_some_and(|c| !c.is_expired_at(wall));
        let state = match (valid, &failure) {
            (true, _) => CertState::Available,
            (false, Some(reason)) => CertState::Unavailable(reason.to_string()),
            (false, None) => CertState::Initializing,
        };
        Self { identity, state, cert, failure }
    }
}

impl Certs {
    /// The snapshots of all identities, sorted.
    fn snapshot(&self) -> Vec<CertSnapshot> {
        let wall = self.shared.wall();
        let all = self.shared.store.all().into_iter();
        let mut all: Vec<_> = all.map(|(id, published)| CertSnapshot::of(id, published, wall)).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }
}

const HOUR: Duration = Duration::from_hours(1);
const CERT_WITHIN: Duration = Duration::from_mins(1);

/// The behaviour of the fake authority from now on.
#[derive(Clone)]
enum Mood {
    Sign(Duration),
    SignFor(&'static str),
    Garbage,
    Refuse,
    Mute,
    Crash,
    /// The authority answers once it is notified.
    Wait(Arc<Notify>),
}

struct Fake {
    mood: Mutex<Mood>,
    asked: Mutex<HashMap<String, usize>>,
    now: AtomicUsize,
    most: AtomicUsize,
    wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// Counts a request as under way until the request ends, for whatever reason.
struct Under<'a>(&'a AtomicUsize);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    fn become_(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn times_asked(&self, id: &Identity) -> usize {
        self.asked.lock().get(id.as_str()).copied().unwrap_or(0)
    }

    fn sign(&self, life: Duration, csr: &str) -> Vec<String> {
        let from = (self.wall)();
        TestCa::new("root").with_lifetime(from, from + life).answer(csr)
    }
}

impl Issuer for Fake {
    fn issue<'a>(&'a self, identity: &'a Identity, csr: String, _: Duration) -> Issuing<'a> {
        Box::pin(async move {
            *self.asked.lock().entry(identity.to_string()).or_default() += 1;
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let _under = Under(&self.now);
            self.most.fetch_max(now, Ordering::SeqCst);
            let mood = self.mood.lock().clone();
            match mood {
                Mood::Sign(life) => Ok(self.sign(life, &csr)),
                Mood::SignFor(account) => {
                    let other = crate::protocols::ca::csr::request(&who(account)).unwrap();
                    Ok(self.sign(HOUR, &other.pem))
                }
                Mood::Garbage => Ok(vec!["-----BEGIN".into(), "?".into()]),
                Mood::Refuse => {
                    Err(IssueError::PeerRefused { code: "Unauthenticated".into(), message: "no".into() })
                }
                Mood::Mute => std::future::pending().await,
                Mood::Crash => panic!("a bug"),
                Mood::Wait(until) => {
                    until.notified().await;
                    Ok(self.sign(HOUR, &csr))
                }
            }
        })
    }
}

fn who(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

/// A handle, the fake authority behind the handle, and the running actor. The wall clock follows tokio's paused
/// clock.
struct World {
    certs: Certs,
    ca: Arc<Fake>,
    actor: ActorRef<Msg>,
}

async fn world(mood: Mood) -> World {
    let (start, origin) = (seconds_from_now(0), Instant::now());
    let wall: Arc<dyn Fn() -> SystemTime + Send + Sync> =
        Arc::new(move || start + Instant::now().duration_since(origin));
    let ca = Arc::new(Fake {
        mood: Mutex::new(mood),
        asked: Mutex::default(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        wall: wall.clone(),
    });
    let config = CertsConfig { wall, ..CertsConfig::new(HOUR, TlsConfig::default()) };
    let certs = Certs::new(config, ca.clone(), Quarantine::default());
    let actor = run(&certs).await;
    World { certs, ca, actor }
}

async fn run(certs: &Certs) -> ActorRef<Msg> {
    let actor = run_alone(CertsActor, certs.shared.clone()).await.unwrap();
    certs.address.publish(actor.clone());
    actor
}

impl World {
    async fn fetch(&self, account: &str) -> Result<Arc<WorkloadCert>, CertError> {
        self.certs.fetch(&who(account), CERT_WITHIN).await
    }

    fn state(&self, account: &str) -> Option<CertState> {
        self.certs.snapshot().into_iter().find(|s| s.identity == who(account)).map(|s| s.state)
    }

    /// Waits until the next publication or removal.
    async fn until(&self, mut holds: impl FnMut(&Certs) -> bool) {
        let mut changes = self.certs.changed();
        while !holds(&self.certs) {
            changes.changed().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_fetched_once_and_then_read() {
    let w = world(Mood::Sign(HOUR)).await;
    assert!(w.certs.current(&who("web")).is_none());
    let (a, b) = tokio::join!(w.fetch("web"), w.fetch("web"));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&a, &w.certs.current(&who("web")).unwrap()));
    assert_eq!((a.identity(), w.ca.times_asked(&who("web"))), (&who("web"), 1));
    assert_eq!(w.state("web"), Some(CertState::Available));
    let shown = &w.certs.snapshot()[0];
    let pems: Vec<_> = shown.cert.as_ref().unwrap().path().map(|c| c.pem.clone()).collect();
    assert!(pems.len() == 1 && pems[0].starts_with("-----BEGIN CERTIFICATE-----\n"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_its_life_without_anybody_asking() {
    let w = world(Mood::Sign(HOUR)).await;
    let first = w.fetch("web").await.unwrap();
    let began = Instant::now();
    w.until(|c| c.current(&who("web")).is_some_and(|c| !Arc::ptr_eq(&c, &first))).await;
    let waited = began.elapsed();
    assert!(
        waited >= HOUR / 2 - Duration::from_secs(1) && waited <= HOUR / 2 + Duration::from_secs(1),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_old_certificate_serves_while_the_authority_fails_and_until_its_end() {
    let w = world(Mood::Sign(HOUR)).await;
    let old = w.fetch("web").await.unwrap();
    for (mood, until) in [(Mood::Refuse, 40), (Mood::Mute, 50), (Mood::Garbage, 59)] {
        w.ca.become_(mood);
        let then = old.not_before() + Duration::from_mins(until);
        tokio::time::sleep(then.duration_since((w.ca.wall)()).unwrap()).await;
        assert!(Arc::ptr_eq(&w.fetch("web").await.unwrap(), &old));
        assert_eq!(w.state("web"), Some(CertState::Available));
    }
    assert!(w.ca.times_asked(&who("web")) > 5, "it kept trying");
    w.until(|c| c.current(&who("web")).is_none()).await;
    let error = w.fetch("web").await.unwrap_err();
    assert!(matches!(error, CertError::Unavailable { .. }), "{error}");
    w.ca.become_(Mood::Sign(HOUR));
    w.until(|c| c.current(&who("web")).is_some()).await;
    w.fetch("web").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_authority_is_told_to_callers_at_once_and_its_recovery_needs_nobody() {
    let w = world(Mood::Refuse).await;
    for _ in 0..2 {
        let error = w.fetch("web").await.unwrap_err().to_string();
        assert_eq!(
            error,
            "no certificate for spiffe://cluster.local/ns/default/sa/web: \
             certificate authority refused: Unauthenticated: no"
        );
    }
    assert_eq!(w.ca.times_asked(&who("web")), 1, "the second caller got the last error");
    let why = "certificate authority refused: Unauthenticated: no";
    assert_eq!(w.state("web"), Some(CertState::Unavailable(why.into())));
    w.ca.become_(Mood::Sign(HOUR));
    w.until(|c| c.current(&who("web")).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_certificate_of_ours_are_refused() {
    let w = world(Mood::Garbage).await;
    let error = w.fetch("a").await.unwrap_err().to_string();
    assert!(error.contains("unusable chain: element 0 of the chain holds no certificate"), "{error}");
    w.ca.become_(Mood::SignFor("b"));
    let error = w.fetch("b").await.unwrap_err().to_string();
    assert!(error.contains("for another key"), "{error}");
    let error = w.fetch("c").await.unwrap_err().to_string();
    assert!(error.contains("is for spiffe://cluster.local/ns/default/sa/b, spiffe"), "{error}");
    w.ca.become_(Mood::Crash);
    let error = w.fetch("d").await.unwrap_err().to_string();
    assert!(error.contains("the request for the certificate crashed: a bug"), "{error}");
    w.ca.become_(Mood::Sign(HOUR));
    w.fetch("e").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mute_authority_holds_nobody_longer_than_a_request_may_take() {
    let w = world(Mood::Mute).await;
    let began = Instant::now();
    let error = w.fetch("web").await.unwrap_err().to_string();
    assert!(error.ends_with("certificate authority gave no answer within 10 s"), "{error}");
    assert!(began.elapsed() <= REQUEST_TIMEOUT + Duration::from_millis(10));
    let began = Instant::now();
    let error = w.certs.fetch(&who("db"), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, CertError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() <= Duration::from_millis(2_010));
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_requests_are_under_way_and_a_connection_goes_before_prefetches() {
    let gate = Arc::new(Notify::new());
    let w = world(Mood::Wait(gate.clone())).await;
    for n in 0..300 {
        w.certs.prefetch(&who(&format!("sa{n}")));
    }
    let web = who("web");
    let urgent = w.certs.fetch(&web, CERT_WITHIN);
    tokio::pin!(urgent);
    // One slot becomes free: the connection's request is next, before 248 queued prefetches.
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut urgent).await.is_err());
    assert_eq!(w.certs.snapshot().len(), 257, "256 prefetches were taken");
    assert_eq!(w.ca.now.load(Ordering::SeqCst), 8);
    gate.notify_one();
    w.until(|c| c.snapshot().iter().any(|s| s.state == CertState::Available)).await;
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut urgent).await.is_err());
    assert_eq!(w.ca.times_asked(&web), 1);
    w.ca.become_(Mood::Sign(HOUR));
    gate.notify_waiters();
    urgent.await.unwrap();
    w.until(|c| c.snapshot().iter().all(|s| s.state == CertState::Available)).await;
    assert_eq!(w.ca.most.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn forgetting_tells_waiters_and_removes_the_certificate() {
    let w = world(Mood::Sign(HOUR)).await;
    w.fetch("web").await.unwrap();
    w.certs.forget(&who("web"));
    assert!(w.certs.current(&who("web")).is_none());
    w.ca.become_(Mood::Mute);
    let db = who("db");
    let waits = w.certs.fetch(&db, CERT_WITHIN);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waits).await.is_err());
    w.certs.forget(&db);
    assert!(matches!(waits.await, Err(CertError::Forgotten { .. })));
    w.until(|c| c.snapshot().is_empty()).await;
    assert_eq!(w.ca.now.load(Ordering::SeqCst), 0, "the request was cancelled");
}

#[tokio::test(start_paused = true)]
async fn certificates_outlive_the_actor_and_its_successor_renews_them() {
    let w = world(Mood::Sign(HOUR)).await;
    let old = w.fetch("web").await.unwrap();
    w.fetch("gone").await.unwrap();
    w.actor.killed().await;
    assert!(Arc::ptr_eq(&w.fetch("web").await.unwrap(), &old), "served without any actor");
    w.certs.forget(&who("gone"));
    let error = w.certs.fetch(&who("new"), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, CertError::LocalDown { .. }), "{error}");
    let new = who("new");
    let (cert, _) = tokio::join!(w.certs.fetch(&new, CERT_WITHIN), run(&w.certs));
    cert.unwrap();
    assert_eq!(w.ca.times_asked(&who("web")), 1, "adopted, not asked for again");
    w.until(|c| c.current(&who("web")).is_some_and(|c| !Arc::ptr_eq(&c, &old))).await;
    assert_eq!(w.ca.times_asked(&who("gone")), 1, "forgotten while nobody was listening");
}

#[tokio::test(start_paused = true)]
async fn under_a_supervisor_a_killed_actor_comes_back_with_its_certificates() {
    let w = world(Mood::Sign(HOUR)).await;
    w.actor.stopped().await;
    let root = SupervisorSpec::new("root", Strategy::OneForOne).child(w.certs.child());
    let tree = Tree::start(root).await.unwrap();
    let old = w.fetch("web").await.unwrap();
    w.certs.address.current().unwrap().kill();
    w.fetch("db").await.unwrap();
    assert!(Arc::ptr_eq(&w.fetch("web").await.unwrap(), &old));
    w.until(|c| c.current(&who("web")).is_some_and(|c| !Arc::ptr_eq(&c, &old))).await;
    tree.stop().await;
    assert!(w.certs.current(&who("db")).is_some(), "readers outlive even the tree");
}

#[tokio::test(start_paused = true)]
async fn a_caller_survives_the_death_of_the_actor() {
    let w = world(Mood::Mute).await;
    let web = who("web");
    let waits = w.certs.fetch(&web, CERT_WITHIN);
    tokio::pin!(waits);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut waits).await.is_err());
    w.actor.killed().await;
    w.ca.become_(Mood::Sign(HOUR));
    let (cert, _) = tokio::join!(waits, run(&w.certs));
    cert.unwrap();
}

#[tokio::test(start_paused = true)]
async fn holding_outlasts_a_short_failure_and_says_what_it_waited_for_after_a_long_one() {
    let w = world(Mood::Refuse).await;
    let (tx, rx) = oneshot::channel();
    let (ca, certs) = (w.ca.clone(), w.certs.clone());
    let recovery = async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        ca.become_(Mood::Sign(HOUR));
        tx.send(()).unwrap();
    };
    let web = who("web");
    let (cert, ()) = tokio::join!(certs.hold(&web, Duration::from_secs(10)), recovery);
    cert.unwrap();
    rx.await.unwrap();
    w.ca.become_(Mood::Refuse);
    let error = w.certs.hold(&who("db"), Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(error, CertError::Unavailable { .. }), "{error}");
    let db = who("db");
    let (error, ()) = tokio::join!(w.certs.hold(&db, CERT_WITHIN), async { w.certs.forget(&db) });
    assert!(matches!(error, Err(CertError::Forgotten { .. } | CertError::Unavailable { .. })));
}

#[tokio::test(start_paused = true)]
async fn callers_past_the_bound_are_refused_and_no_more_of_them_reach_the_mailbox() {
    let w = world(Mood::Mute).await;
    let web = who("web");
    let places = w.certs.shared.waiting.try_acquire_many(WAITERS_MAX as u32 - 10).unwrap();
    let mut callers: Vec<_> = (0..50).map(|_| Box::pin(w.certs.fetch(&web, CERT_WITHIN))).collect();
    let mut refused = 0;
    for caller in &mut callers {
        match std::future::poll_fn(|cx| std::task::Poll::Ready(caller.as_mut().poll(cx))).await {
            std::task::Poll::Ready(Err(CertError::TooManyWaiters { .. })) => refused += 1,
            std::task::Poll::Ready(other) => panic!("{other:?}"),
            std::task::Poll::Pending => {}
        }
    }
    assert_eq!((refused, w.actor.depth()), (40, 10));
    drop((callers, places));
    assert_eq!(w.certs.shared.waiting.available_permits(), WAITERS_MAX);
}

#[tokio::test(start_paused = true)]
async fn removals_coalesce_into_one_message() {
    let w = world(Mood::Sign(HOUR)).await;
    w.fetch("sa0").await.unwrap();
    for n in 0..1000 {
        w.certs.forget(&who(&format!("sa{n}")));
        assert!(w.actor.depth() <= 1, "{} messages", w.actor.depth());
    }
    assert!(w.certs.current(&who("sa0")).is_none());
    w.fetch("other").await.unwrap();
    assert_eq!(w.certs.snapshot().len(), 1);
    w.certs.forget(&who("other"));
    assert_eq!(w.actor.depth(), 1, "the next one is said again");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_crashed_its_requests_twice_is_quarantined_with_its_certificate_in_force() {
    let w = world(Mood::Sign(HOUR)).await;
    let cursed = who("cursed");
    let old = w.fetch("cursed").await.unwrap();
    faults::arm(cursed.as_str(), 2).unwrap();
    let quarantine = w.certs.shared.quarantine.clone();
    let mut changes = quarantine.changed();
    while quarantine.list().is_empty() {
        changes.changed().await.unwrap();
    }
    let aside = quarantine.list();
    assert_eq!((aside[0].kind, &*aside[0].name, aside[0].crashes), ("identity", cursed.as_str(), 2));
    assert!(Arc::ptr_eq(&w.fetch("cursed").await.unwrap(), &old), "the last good one stays");
    assert_eq!(w.ca.times_asked(&cursed), 1, "the authority never heard of the renewals");
    let failure = || {
        let known = w.certs.snapshot().into_iter().find(|known| known.identity == cursed).unwrap();
        known.failure.map(|failure| failure.to_string()).unwrap_or_default()
    };
    w.until(|_| failure().contains("quarantined: crashed its handler 2 times")).await;
    assert_eq!(w.ca.times_asked(&cursed), 1);
    w.fetch("blessed").await.unwrap();

    // The renewal is due long before the certificate expires.
    w.until(|c| c.current(&cursed).is_some_and(|cert| !Arc::ptr_eq(&cert, &old))).await;
    assert_eq!((w.ca.times_asked(&cursed), quarantine.list()), (2, vec![]), "forgiven");
    assert_eq!(failure(), "");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_never_had_a_certificate_fails_with_the_reason_while_it_is_quarantined() {
    let w = world(Mood::Sign(HOUR)).await;
    let hexed = who("hexed");
    faults::arm(hexed.as_str(), 2).unwrap();
    let error = w.fetch("hexed").await.unwrap_err().to_string();
    assert!(error.contains("told to panic"), "{error}");
    let failing = |part: &'static str| {
        let hexed = hexed.clone();
        move |certs: &Certs| {
            let known = certs.snapshot().into_iter().find(|known| known.identity == hexed).unwrap();
            known.failure.is_some_and(|failure| failure.to_string().contains(part))
        }
    };
    w.until(failing("quarantined: crashed its handler")).await;
    let error = w.fetch("hexed").await.unwrap_err().to_string();
    assert!(error.contains("next try in"), "{error}");
    assert_eq!(w.ca.times_asked(&hexed), 0);
    w.certs.hold(&hexed, 2 * CERT_WITHIN).await.unwrap();
    assert_eq!(w.certs.shared.quarantine.list(), []);
}

#[tokio::test(start_paused = true)]
async fn identities_are_counted_by_their_state() {
    let w = world(Mood::Sign(HOUR)).await;
    let states = || w.certs.by_state();
    assert_eq!(states(), [("available", 0), ("unavailable", 0), ("initializing", 0)]);
    w.fetch("a").await.unwrap();
    w.ca.become_(Mood::Refuse);
    w.fetch("b").await.unwrap_err();
    w.ca.become_(Mood::Mute);
    w.certs.prefetch(&who("c"));
    w.until(|certs| certs.snapshot().len() == 3).await;
    assert_eq!(states(), [("available", 1), ("unavailable", 1), ("initializing", 1)]);
}

#[test]
fn the_handle_and_the_configuration_can_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Certs>();
    crosses::<WorkloadCert>();
}
