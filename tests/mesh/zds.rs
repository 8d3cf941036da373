//! The hand-over of pods: what the proxy answers istio-cni, and what becomes of the pods.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Runtime;
use warren::{
    lab::{
        cni::{Cni, CniError, CniPod, Outcome},
        hosts::Role,
        net::{Namespace, redirect::Redirection},
        process::Process,
        testbed::readiness,
        testing::scratch,
    },
    protocols::zds::{
        PodInfo,
        codec::{Answer, Request, decode_answer, encode_request},
    },
    sys::fdpass::{SeqListener, SeqPacket},
};

use crate::{metrics::metrics_show, support::*};

/// What istio-cni waits for an answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn info(name: &str) -> PodInfo {
    PodInfo { name: name.into(), namespace: "default".into(), service_account: name.into() }
}

pub(crate) fn netns(namespace: &Namespace) -> Arc<OwnedFd> {
    Arc::new(namespace.fd().try_clone_to_owned().unwrap())
}

/// The uid by which the CNI knows a pod.
fn uid(lab: &Lab, pod: &str) -> String {
    let full = format!("default/{pod}");
    lab.topology().pods.iter().find(|plan| plan.host.name == full).unwrap().uid.clone()
}

/// A pod of the mesh, as the CNI adds it.
pub(crate) fn cni_pod(lab: &Lab, pod: &str) -> CniPod {
    CniPod { uid: uid(lab, pod), info: info(pod), netns: Some(netns(lab.pod(pod).unwrap())) }
}

pub(crate) fn cni(lab: &mut Lab, node: &str) -> Arc<Cni> {
    lab.services().cni(node).unwrap().clone()
}

/// What readiness says, if it is not that all is well.
fn pending(lab: &Lab, node: &str) -> Option<String> {
    let answer = readiness(lab.node(node).unwrap()).unwrap();
    (answer.status != 200).then_some(answer.body)
}

fn ready_again(lab: &Lab, node: &str) {
    eventually("readiness", || pending(lab, node).is_none().then_some(()));
}

fn snapshots(cni: &Cni) -> u64 {
    cni.status().borrow().snapshots
}

pub(crate) fn pods_are_kept_when_the_cni_hangs_up_or_adds_them_again() {
    let mut lab = raise(MESH);
    let cni = cni(&mut lab, "one");
    let mut live = open(&lab, "client", SERVER).unwrap();
    runtime().block_on(cni.add(cni_pod(&lab, "client"))).unwrap();
    echo(&mut live, b"the same pod again").unwrap();

    let before = snapshots(&cni);
    cni.hang_up();
    open(&lab, "client", SERVER).unwrap();
    eventually("second snapshot", || (snapshots(&cni) > before).then_some(()));
    ready_again(&lab, "one");
    echo(&mut live, b"after a second snapshot").unwrap();

    // As after a restart of the CNI, which has no namespaces then.
    cni.know(CniPod { netns: None, ..cni_pod(&lab, "client") });
    cni.hang_up();
    eventually("third snapshot", || (snapshots(&cni) > before + 1).then_some(()));
    let keep = Request::Keep { uid: uid(&lab, "client") };
    let kept = |status: &warren::lab::cni::CniStatus| {
        status.log.iter().any(|exchange| exchange.request == keep && exchange.outcome == Outcome::Done)
    };
    assert!(kept(&cni.status().borrow()));
    ready_again(&lab, "one");
    echo(&mut live, b"after a snapshot that only keeps").unwrap();
    open(&lab, "client", SERVER).unwrap();
    assert_eq!(cni.status().borrow().violations, 0);
}

pub(crate) fn a_deleted_pod_is_let_go_and_can_come_back() {
    let mut lab = raise(MESH);
    let cni = cni(&mut lab, "two");
    // A server that does not end with its pod's place in the mesh.
    let listener = listen(lab.pod("server").unwrap(), 7000);
    let mut client = dial(&lab, "client", "10.77.2.1:7000").unwrap();
    let _server = accept(&listener);
    let pod = cni_pod(&lab, "server");
    runtime().block_on(cni.del(&pod.uid)).unwrap();
    assert!(is_turned_away(&end_of(&mut client)));
    metrics_show(&lab, "two", "no pod", |metrics| {
        metrics.sum("workload_manager_active_proxy_count", &[]) == 0.0
            && metrics.sum("workload_manager_proxies_stopped_total", &[]) == 1.0
    });
    // The client's own proxy accepts, and cannot go on.
    let mut late = dial(&lab, "client", SERVER).unwrap();
    assert!(echo(&mut late, b"anybody there?").is_err());
    // Unknown by now.
    runtime().block_on(cni.del(&pod.uid)).unwrap();
    runtime().block_on(cni.add(pod)).unwrap();
    drop(open_at_last(&lab, "client", SERVER));
    assert_eq!(cni.status().borrow().violations, 0);
}

pub(crate) fn a_pod_whose_namespace_changes_is_served_in_the_new_one_only() {
    let mut lab = raise(MESH);
    let cni = cni(&mut lab, "one");
    let mut live = open(&lab, "client", SERVER).unwrap();
    let old = lab.pod("client").unwrap().clone();
    let ip = "10.77.1.9".parse().unwrap();
    let new = lab.hosts_mut().add(Role::Pod, "default/again", &[ip]).unwrap().namespace().clone();
    lab.hosts_mut().redirect(Role::Pod, "default/again", Redirection::default()).unwrap();
    let pod = CniPod { netns: Some(netns(&new)), ..cni_pod(&lab, "client") };
    runtime().block_on(cni.add(pod)).unwrap();
    assert!(is_turned_away(&end_of(&mut live)));
    open(&lab, "again", SERVER).unwrap();
    assert_eq!(ask(&old, addr(SERVER)), End::Refused);
    ready_again(&lab, "one");
}

pub(crate) fn a_pod_that_cannot_be_served_is_named_and_tried_again() {
    let mut lab = raise(&format!(
        "{MESH}  - {{name: late, serviceAccount: late, node: one, ip: 10.77.1.3, captured: false, protocol: HBONE,
     run: echo 9000}}\n"
    ));
    let cni = cni(&mut lab, "one");
    let mut live = open(&lab, "client", SERVER).unwrap();
    let refusal = |pod: CniPod| match runtime().block_on(cni.add(pod)) {
        Err(CniError::Failed(Outcome::Refused(why))) => why,
        other => panic!("{other:?}"),
    };

    // Something that is no network namespace.
    let file = File::open("/dev/null").unwrap();
    let pod = CniPod { uid: "nowhere".into(), netns: Some(Arc::new(file.into())), ..cni_pod(&lab, "late") };
    let why = refusal(pod);
    assert!(why.contains("namespace"), "{why}");
    let said = pending(&lab, "one").unwrap();
    assert!(said.contains("workload proxy manager") && said.contains("nowhere"), "{said}");
    open(&lab, "client", SERVER).unwrap();
    runtime().block_on(cni.del("nowhere")).unwrap();
    ready_again(&lab, "one");

    // A program of the pod that has one of the proxy's ports.
    let taken = listen(lab.pod("late").unwrap(), 15001);
    lab.hosts_mut().redirect(Role::Pod, "default/late", Redirection::default()).unwrap();
    let late = cni_pod(&lab, "late");
    let late_uid = late.uid.clone();
    let why = refusal(late);
    assert!(why.contains("15001"), "{why}");
    let said = pending(&lab, "one").unwrap();
    assert!(said.contains("workload proxy manager") && said.contains(&late_uid), "{said}");
    metrics_show(&lab, "one", "one pod that waits and two that are served", |metrics| {
        metrics.sum("workload_manager_pending_proxy_count", &[]) == 1.0
            && metrics.sum("workload_manager_active_proxy_count", &[]) == 2.0
    });
    // The others go on.
    echo(&mut live, b"still here").unwrap();
    open(&lab, "client", NEAR).unwrap();
    drop(taken);
    ready_again(&lab, "one");
    metrics_show(&lab, "one", "three pods that are served", |metrics| {
        metrics.sum("workload_manager_pending_proxy_count", &[]) == 0.0
            && metrics.sum("workload_manager_active_proxy_count", &[]) == 3.0
    });
    open(&lab, "late", SERVER).unwrap();
    open(&lab, "client", "10.77.1.3:9000").unwrap();
    echo(&mut live, b"still here").unwrap();
    assert_eq!(cni.status().borrow().violations, 0);
}

/// istio-cni in the test's own hands, for what a sound one never says.
struct Agent {
    runtime: Runtime,
    listener: SeqListener,
    path: PathBuf,
}

/// A connection of the proxy.
struct Link<'a>(&'a Agent, SeqPacket);

impl Agent {
    fn start(name: &str) -> Self {
        let (runtime, path) = (runtime(), scratch().join(name));
        let listener = {
            let _context = runtime.enter();
            SeqListener::bind(&path).unwrap()
        };
        Self { runtime, listener, path }
    }

    /// Starts a proxy of `node` that connects here.
    fn proxy(&self, lab: &Lab, node: &str) -> Process {
        let launch = launch().env("INPOD_UDS", self.path.to_str().unwrap());
        lab.launch(node, &launch).unwrap()
    }

    /// The next connection, which has greeted.
    fn accept(&self) -> Link<'_> {
        let accepting = async { tokio::time::timeout(LIMIT, self.listener.accept()).await };
        let link = Link(self, self.runtime.block_on(accepting).unwrap().unwrap());
        assert_eq!(link.hear(), Some(vec![0x08, 0x01]));
        link
    }
}

impl Link<'_> {
    /// The next packet; `None` at the end of the connection.
    fn hear(&self) -> Option<Vec<u8>> {
        let hearing = async { tokio::time::timeout(ANSWER, self.1.recv()).await };
        let heard = self.0.runtime.block_on(hearing).expect("an answer in time");
        // A reset is an end as well.
        let packet = heard.ok().flatten()?;
        assert!(packet.fds.is_empty());
        Some(packet.bytes)
    }

    fn send(&self, packet: &[u8], fd: Option<&OwnedFd>) {
        self.0.runtime.block_on(self.1.send(packet, fd.map(AsFd::as_fd))).unwrap();
    }

    fn ask(&self, request: &Request, fd: Option<&OwnedFd>) -> Answer {
        self.send(&encode_request(request), fd);
        decode_answer(&self.hear().unwrap()).unwrap()
    }

    fn add(&self, lab: &Lab, pod: &str) {
        let request = Request::Add { uid: uid(lab, pod), info: Some(info(pod)) };
        let answer = self.ask(&request, Some(&netns(lab.pod(pod).unwrap())));
        assert_eq!(answer, Answer::Done, "{pod}");
    }

    fn snapshot(&self) {
        assert_eq!(self.ask(&Request::SnapshotSent, None), Answer::Done);
    }

    /// What is refused with a reason, after which the connection ends.
    fn refuses(self, packet: &[u8], fd: Option<&OwnedFd>) {
        self.send(packet, fd);
        let answer = decode_answer(&self.hear().unwrap()).unwrap();
        assert!(matches!(&answer, Answer::Refused(why) if !why.is_empty()), "{packet:?}: {answer:?}");
        assert_eq!(self.hear(), None, "{packet:?}");
    }
}

/// The two pods of node one, and the server; the proxy of node one is the caller's.
fn lab_without_proxies() -> Lab {
    raise_as(MESH, None, Default::default())
}

pub(crate) fn a_broken_hand_over_is_begun_again_and_costs_no_connection() {
    let lab = lab_without_proxies();
    let agent = Agent::start("agent.sock");
    let mut proxy = agent.proxy(&lab, "one");
    let mut link = agent.accept();
    assert!(pending(&lab, "one").unwrap().contains("workload proxy manager"));
    link.add(&lab, "client");
    link.add(&lab, "near");
    link.snapshot();
    ready_again(&lab, "one");
    let mut live = open(&lab, "client", NEAR).unwrap();

    let some_fd = netns(lab.pod("client").unwrap());
    let client = uid(&lab, "client");
    let add = encode_request(&Request::Add { uid: client.clone(), info: Some(info("client")) });
    let breaches: [(&[u8], Option<&OwnedFd>); 6] = [
        // An add without its descriptor, and descriptors where none belongs.
        (&add, None),
        (&encode_request(&Request::Keep { uid: client.clone() }), Some(&some_fd)),
        (&encode_request(&Request::Del { uid: client.clone() }), Some(&some_fd)),
        (&encode_request(&Request::SnapshotSent), Some(&some_fd)),
        // No protobuf, and none of a known kind.
        (&[0x0a, 0x7f, 1], None),
        (&[0x22, 0], None),
    ];
    for (packet, fd) in breaches {
        link.refuses(packet, fd);
        link = agent.accept();
        assert!(pending(&lab, "one").unwrap().contains("workload proxy manager"));
        echo(&mut live, b"still here").unwrap();
        open(&lab, "client", NEAR).unwrap();
        // Before the snapshot, keeping is a matter of course.
        assert_eq!(link.ask(&Request::Keep { uid: client.clone() }, None), Answer::Done);
        link.add(&lab, "near");
        link.snapshot();
        ready_again(&lab, "one");
    }
    echo(&mut live, b"still here").unwrap();

    // What a snapshot does not name is gone after it, not before.
    drop(link);
    let link = agent.accept();
    link.add(&lab, "near");
    echo(&mut live, b"not yet").unwrap();
    link.snapshot();
    assert!(is_turned_away(&end_of(&mut live)));
    eventually("end of capture", || {
        (ask(lab.pod("client").unwrap(), addr(NEAR)) == End::Refused).then_some(())
    });
    ready_again(&lab, "one");

    // A delete before the snapshot takes effect with it.
    drop(link);
    let link = agent.accept();
    link.add(&lab, "near");
    link.add(&lab, "client");
    assert_eq!(link.ask(&Request::Del { uid: uid(&lab, "near") }, None), Answer::Done);
    link.snapshot();
    ready_again(&lab, "one");
    eventually("end of capture", || {
        (ask(lab.pod("near").unwrap(), addr(BARE)) == End::Refused).then_some(())
    });
    open(&lab, "client", BARE).unwrap();
    assert!(proxy.status().unwrap().is_none());
}

pub(crate) fn a_cni_that_breaks_the_protocol_makes_the_proxy_exit_with_1() {
    let lab = lab_without_proxies();
    let client = uid(&lab, "client");
    let fd = netns(lab.pod("client").unwrap());
    let breaches: [(&str, Request, Option<&OwnedFd>); 3] = [
        ("anonymous", Request::Add { uid: client.clone(), info: None }, Some(&fd)),
        ("keep", Request::Keep { uid: client }, None),
        ("again", Request::SnapshotSent, None),
    ];
    for (name, request, fd) in breaches {
        let agent = Agent::start(&format!("{name}.sock"));
        let mut proxy = agent.proxy(&lab, "one");
        let link = agent.accept();
        link.snapshot();
        let answer = link.ask(&request, fd);
        assert!(matches!(&answer, Answer::Refused(why) if !why.is_empty()), "{name}: {answer:?}");
        assert_eq!(proxy.wait(LIMIT).unwrap().code(), Some(1), "{name}");
    }
}
