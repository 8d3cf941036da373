use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::{
    actors::control::zds::{PodSpec, Pods},
    protocols::zds::{
        NetnsId, PodInfo,
        codec::{Answer, Request, decode_answer, decode_hello, encode_request},
        session::Link,
    },
    supervisor::{Backoff, Strategy, SupervisorSpec, Tree},
    sys::fdpass::{SeqListener, SeqPacket},
};

/// The behaviour of a fake start.
#[derive(Clone)]
enum Mood {
    Work,
    Fail(&'static str),
    Hang,
    Panic,
}

/// Fake pods that only report their calls.
#[derive(Clone)]
struct Fake(Arc<FakeState>);

struct FakeState {
    running: Mutex<BTreeMap<String, NetnsId>>,
    moods: Mutex<BTreeMap<String, Mood>>,
    /// The sender of `start uid`, `started uid`, `given up uid` and `stop uid`, as these events happen.
    news: mpsc::Sender<String>,
}

impl Fake {
    fn new() -> (Self, mpsc::Receiver<String>) {
        let (news, heard) = mpsc::channel(64);
        let state = FakeState { running: Mutex::default(), moods: Mutex::default(), news };
        (Self(Arc::new(state)), heard)
    }

    fn mood(&self, uid: &str, mood: Mood) {
        self.0.moods.lock().insert(uid.into(), mood);
    }

    fn say(&self, what: &str, uid: &str) {
        self.0.news.try_send(format!("{what} {uid}")).expect("the test reads its news");
    }

    fn running(&self) -> Vec<String> {
        self.0.running.lock().keys().cloned().collect()
    }
}

/// A guard that reports a start as given up when it is dropped, unless the guard is forgotten.
struct GivenUp<'a>(&'a Fake, &'a str);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.say("given up", self.1);
    }
}

impl Pods for Fake {
    async fn start(&self, spec: PodSpec) -> Result<(), String> {
        let mood = self.0.moods.lock().get(&*spec.uid).cloned().unwrap_or(Mood::Work);
        self.say("start", &spec.uid);
        match mood {
            Mood::Work => {
                assert_eq!((spec.id.dev, spec.id.ino), spec.netns.id());
                self.0.running.lock().insert(spec.uid.to_string(), spec.id);
                Ok(())
            }
            Mood::Fail(why) => Err(why.into()),
            Mood::Hang => {
                let _given_up = GivenUp(self, &spec.uid);
                std::future::pending().await
            }
            Mood::Panic => panic!("out of luck"),
        }
    }

    async fn stop(&self, uid: &str) {
        self.say("stop", uid);
        self.0.running.lock().remove(uid);
    }

    async fn list(&self) -> Vec<(String, NetnsId)> {
        self.0.running.lock().iter().map(|(uid, id)| (uid.clone(), *id)).collect()
    }
}

/// The agent's side of one connection.
struct Agent(SeqPacket);

impl Agent {
    async fn accept(listener: &SeqListener) -> Self {
        let socket = listener.accept().await.unwrap();
        decode_hello(&socket.recv().await.unwrap().unwrap().bytes).unwrap();
        Self(socket)
    }

    async fn ask(&self, request: &Request, fd: Option<&OwnedFd>) -> Answer {
        self.0.send(&encode_request(request), fd.map(AsFd::as_fd)).await.unwrap();
        self.answer().await
    }

    async fn answer(&self) -> Answer {
        decode_answer(&self.0.recv().await.unwrap().expect("an answer").bytes).unwrap()
    }

    async fn add(&self, uid: &str, fd: &OwnedFd) -> Answer {
        self.ask(&add(uid), Some(fd)).await
    }

    async fn snapshot(&self) {
        assert_eq!(self.ask(&Request::SnapshotSent, None).await, Answer::Done);
    }

    async fn closed(&self) -> bool {
        self.0.recv().await.unwrap().is_none()
    }
}

fn add(uid: &str) -> Request {
    let info = PodInfo { name: uid.into(), namespace: "shop".into(), service_account: "web".into() };
    Request::Add { uid: uid.into(), info: Some(info) }
}

fn refused(why: &str) -> Answer {
    Answer::Refused(why.into())
}

/// A descriptor that stands for a namespace. Any file has an identity like a namespace.
fn netns() -> OwnedFd {
    File::open("/proc/self/ns/net").unwrap().into()
}

fn other_netns() -> OwnedFd {
    File::open("/proc/self/ns/mnt").unwrap().into()
}

/// A proxy with fake pods and an agent's listener, in a directory of its own.
struct World {
    zds: Zds,
    tree: Tree,
    pods: Fake,
    news: mpsc::Receiver<String>,
    listener: SeqListener,
    gate: watch::Sender<bool>,
    dir: PathBuf,
}

impl World {
    async fn start(name: &str) -> Self {
        let mut world = Self::gated(name).await;
        world.open();
        world
    }

    async fn gated(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("warren-zds-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let listener = SeqListener::bind(&Self::path(&dir)).unwrap();
        let (gate, open) = watch::channel(false);
        let zds = Zds::new(Self::path(&dir), open);
        let (pods, news) = Fake::new();
        let quick = Backoff { first: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: 0.0 };
        let root = SupervisorSpec::new("root", Strategy::OneForOne).backoff(quick);
        let tree = Tree::start(root.child(zds.child(pods.clone()))).await.unwrap();
        Self { zds, tree, pods, news, listener, gate, dir }
    }

    fn open(&mut self) {
        self.gate.send_replace(true);
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join("ztunnel.sock")
    }

    async fn agent(&self) -> Agent {
        Agent::accept(&self.listener).await
    }

    async fn status(&self, wanted: impl FnMut(&ZdsStatus) -> bool) -> ZdsStatus {
        self.zds.status().wait_for(wanted).await.unwrap().clone()
    }

    #[track_caller]
    fn heard(&mut self, want: &[&str]) {
        let mut got = Vec::new();
        while let Ok(news) = self.news.try_recv() {
            got.push(news);
        }
        assert_eq!(got, want);
    }

    async fn end(self) {
        self.tree.stop().await;
        std::fs::remove_dir_all(self.dir).unwrap();
    }
}

#[tokio::test]
async fn pods_of_a_snapshot_are_served_and_the_node_becomes_ready() {
    let mut world = World::start("snapshot").await;
    assert!(!world.zds.status().borrow().session.ready);
    let agent = world.agent().await;
    assert_eq!(agent.add("web", &netns()).await, Answer::Done);
    assert_eq!(world.pods.running(), ["web"], "served when acknowledged");
    agent.snapshot().await;
    let status = world.status(|s| s.session.ready).await;
    assert_eq!((status.session.counts.active, status.session.counts.started, status.detail()), (1, 1, None));
    assert_eq!(agent.add("web", &netns()).await, Answer::Done);
    world.heard(&["start web"]);
    assert_eq!(agent.ask(&Request::Del { uid: "web".into() }, None).await, Answer::Done);
    world.status(|s| s.session.counts.stopped == 1).await;
    assert_eq!(world.news.recv().await.unwrap(), "stop web");
    world.end().await;
}

#[tokio::test]
async fn nothing_is_dialled_before_the_gate_opens() {
    let mut world = World::gated("gate").await;
    assert!(!world.zds.status().borrow().session.ready);
    let early = tokio::select! {
        biased;
        _ = world.listener.accept() => true,
        () = async { for _ in 0..100 { tokio::task::yield_now().await } } => false,
    };
    assert!(!early);
    world.open();
    world.agent().await.snapshot().await;
    world.status(|s| s.session.ready).await;
    world.end().await;
}

#[tokio::test]
async fn another_namespace_replaces_the_pod() {
    let mut world = World::start("swap").await;
    let agent = world.agent().await;
    assert_eq!(agent.add("web", &netns()).await, Answer::Done);
    let first = world.pods.0.running.lock()["web"];
    assert_eq!(agent.add("web", &other_netns()).await, Answer::Done);
    assert_ne!(world.pods.0.running.lock()["web"], first);
    world.heard(&["start web", "stop web", "start web"]);
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_cannot_start_is_refused_and_named_and_the_others_go_on() {
    let world = World::start("fails").await;
    world.pods.mood("bad", Mood::Fail("port 15001 is taken"));
    world.pods.mood("worse", Mood::Panic);
    let agent = world.agent().await;
    assert_eq!(agent.add("bad", &netns()).await, refused("port 15001 is taken"));
    assert_eq!(agent.add("worse", &netns()).await, refused("its proxy panicked while starting: out of luck"));
    assert_eq!(agent.add("good", &netns()).await, Answer::Done);
    agent.snapshot().await;
    let status = world.status(|s| s.session.link == Link::Live).await;
    assert!(!status.session.ready);
    let detail = status.detail().unwrap();
    assert!(
        detail.contains("pod shop/bad (bad): port 15001 is taken") && detail.contains("pod shop/worse"),
        "{detail}"
    );
    // Once the pod can start, the agent's next attempt succeeds. The other pods were not disturbed.
    world.pods.mood("bad", Mood::Work);
    world.pods.mood("worse", Mood::Work);
    assert_eq!(agent.add("bad", &netns()).await, Answer::Done);
    assert_eq!(agent.add("worse", &netns()).await, Answer::Done);
    assert!(world.status(|s| s.session.ready).await.session.pending.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_cannot_start_is_retried_until_it_works() {
    let mut world = World::start("retry").await;
    world.pods.mood("bad", Mood::Fail("no"));
    let agent = world.agent().await;
    assert_eq!(agent.add("bad", &netns()).await, refused("no"));
    agent.snapshot().await;
    world.heard(&["start bad"]);
    tokio::time::pause();
    assert_eq!(world.news.recv().await.unwrap(), "start bad", "by itself");
    world.pods.mood("bad", Mood::Work);
    assert_eq!(world.news.recv().await.unwrap(), "start bad");
    world.status(|s| s.session.ready).await;
    world.end().await;
}

#[tokio::test]
async fn a_hanging_start_is_refused_before_the_agent_gives_up_and_ends_with_the_pod() {
    let mut world = World::start("hangs").await;
    world.pods.mood("slow", Mood::Hang);
    let agent = world.agent().await;
    agent.snapshot().await;
    agent.0.send(&encode_request(&add("slow")), Some(netns().as_fd())).await.unwrap();
    assert_eq!(world.news.recv().await.unwrap(), "start slow");
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    assert_eq!(agent.answer().await, refused("its proxy has not started within 4 s"));
    assert!(before.elapsed() < Duration::from_secs(5));
    tokio::time::resume();
    assert!(!world.zds.status().borrow().session.ready);
    assert_eq!(agent.ask(&Request::Del { uid: "slow".into() }, None).await, Answer::Done);
    assert_eq!(world.news.recv().await.unwrap(), "given up slow");
    assert_eq!(world.news.recv().await.unwrap(), "stop slow");
    world.status(|s| s.session.ready).await;
    world.end().await;
}

#[tokio::test]
async fn a_lost_connection_keeps_the_pods_and_the_next_snapshot_decides() {
    let world = World::start("reconnect").await;
    let agent = world.agent().await;
    agent.add("kept", &netns()).await;
    agent.add("gone", &netns()).await;
    agent.snapshot().await;
    world.status(|s| s.session.ready).await;
    drop(agent);
    let agent = world.agent().await;
    let status = world.status(|s| s.session.link == Link::Snapshot).await;
    assert_eq!((status.session.ready, status.session.counts.active), (false, 2));
    assert_eq!(agent.ask(&Request::Keep { uid: "kept".into() }, None).await, Answer::Done);
    agent.snapshot().await;
    world.status(|s| s.session.ready && s.session.counts.active == 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_socket_that_is_not_there_yet_is_dialled_until_it_is() {
    let mut world = World::gated("late").await;
    let path = World::path(&world.dir);
    std::fs::remove_file(&path).unwrap();
    world.open();
    let status = world.status(|s| s.last_error.is_some()).await;
    let detail = status.detail().unwrap();
    assert!(detail.starts_with("not connected to istio-cni: cannot connect to "), "{detail}");
    world.listener = SeqListener::bind(&path).unwrap();
    world.agent().await.snapshot().await;
    world.status(|s| s.session.ready && s.last_error.is_none()).await;
    world.end().await;
}

#[tokio::test]
async fn packets_with_the_wrong_descriptors_are_refused_closed_and_hung_up_on() {
    let world = World::start("fds").await;
    for (request, fds) in [
        (encode_request(&add("web")), 0),
        (encode_request(&Request::Del { uid: "web".into() }), 1),
        (encode_request(&Request::SnapshotSent), 1),
        (vec![0xff; 9], 1),
    ] {
        let agent = world.agent().await;
        let (read, write) = std::io::pipe().unwrap();
        let write = OwnedFd::from(write);
        agent.0.send(&request, (fds == 1).then_some(write.as_fd())).await.unwrap();
        drop(write);
        assert!(matches!(agent.answer().await, Answer::Refused(_)));
        assert!(agent.closed().await);
        assert_eq!(std::io::Read::read(&mut &read, &mut [0]).unwrap(), 0, "the descriptor is closed");
    }
    let agent = world.agent().await;
    agent.0.send(&[0x0a; 1500], None).await.unwrap();
    assert!(agent.closed().await, "a packet cut short is no request at all");
    let agent = world.agent().await;
    assert_eq!(agent.add("web", &netns()).await, Answer::Done, "and the next connection is a good one");
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_leaves_the_set_of_pods_in_doubt_is_told_before_the_exit() {
    for (name, request) in [
        ("info", Request::Add { uid: "web".into(), info: None }),
        ("keep", Request::Keep { uid: "web".into() }),
        ("twice", Request::SnapshotSent),
    ] {
        let world = World::start(name).await;
        let agent = world.agent().await;
        agent.snapshot().await;
        let fd = netns();
        let with = matches!(request, Request::Add { .. }).then_some(&fd);
        assert!(matches!(agent.ask(&request, with).await, Answer::Refused(_)));
        let status = world.status(|s| s.fatal.is_some()).await;
        assert!(status.detail().unwrap().starts_with("istio-cni broke the protocol: "));
        world.end().await;
    }
}

#[tokio::test]
async fn a_killed_actor_comes_back_and_the_pods_never_noticed() {
    let mut world = World::start("killed").await;
    let agent = world.agent().await;
    agent.add("kept", &netns()).await;
    agent.add("gone", &netns()).await;
    agent.snapshot().await;
    world.status(|s| s.session.ready).await;
    world.heard(&["start kept", "start gone"]);
    world.tree.handle().kill("root/zds").unwrap();
    world.status(|s| !s.session.ready).await;
    assert!(agent.closed().await);
    let agent = world.agent().await;
    assert_eq!(agent.add("kept", &netns()).await, Answer::Done);
    agent.snapshot().await;
    let status = world.status(|s| s.session.ready && s.session.counts.active == 1).await;
    assert_eq!((status.session.counts.started, status.session.counts.stopped), (2, 1), "counters go on");
    assert_eq!(world.news.recv().await.unwrap(), "stop gone");
    world.heard(&[]);
    world.end().await;
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let world = World::start("order").await;
    world.pods.mood("bad", Mood::Fail("no"));
    let agent = world.agent().await;
    let fd = netns();
    for uid in ["a", "bad", "b"] {
        agent.0.send(&encode_request(&add(uid)), Some(fd.as_fd())).await.unwrap();
    }
    agent.0.send(&encode_request(&Request::SnapshotSent), None).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(agent.answer().await);
    }
    assert_eq!(answers, [Answer::Done, refused("no"), Answer::Done, Answer::Done]);
    world.end().await;
}

#[tokio::test]
async fn a_flood_of_requests_is_read_one_after_the_other_and_waits_outside_the_mailbox() {
    const REQUESTS: usize = 100;
    let mut world = World::start("flood").await;
    world.pods.mood("slow", Mood::Hang);
    let agent = world.agent().await;
    agent.0.send(&encode_request(&add("slow")), Some(netns().as_fd())).await.unwrap();
    assert_eq!(world.news.recv().await.unwrap(), "start slow");
    // The agent sends more than the socket takes: the other packets wait at the agent.
    let flood = async {
        for _ in 0..REQUESTS {
            agent.0.send(&encode_request(&Request::Del { uid: "nobody".into() }), None).await.unwrap();
        }
    };
    let node = || world.tree.handle().find("root/zds").unwrap();
    let before = node().load.handled;
    let answers = async {
        // No further packet is read while the first packet waits for its answer.
        for _ in 0..20 {
            world.tree.handle().probe("root/zds", Duration::from_secs(60)).await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!((node().load.depth, node().load.handled), (0, before));
        }
        tokio::time::pause();
        assert_eq!(agent.answer().await, refused("its proxy has not started within 4 s"));
        tokio::time::resume();
        for _ in 0..REQUESTS {
            assert!(node().load.depth <= 1, "{}", node().load.depth);
            assert_eq!(agent.answer().await, Answer::Done);
        }
    };
    tokio::join!(flood, answers);
    world.end().await;
}

#[tokio::test]
async fn an_agent_that_is_left_is_not_dialled_again_and_its_pods_are_kept() {
    let mut world = World::start("left").await;
    let agent = world.agent().await;
    assert_eq!(agent.add("web", &netns()).await, Answer::Done);
    agent.snapshot().await;
    world.status(|s| s.session.ready).await;
    world.zds.leave();
    assert!(agent.closed().await);
    world.status(|s| !s.session.ready).await;
    // The pause before the first redial is 20 ms at most.
    let again = tokio::time::timeout(Duration::from_millis(200), world.listener.accept()).await;
    assert!(again.is_err(), "dialled again");
    assert_eq!(world.pods.running(), ["web"]);
    world.heard(&["start web"]);
    world.end().await;
}
