use std::fs::File;

use super::*;
use crate::protocols::zds::codec::{decode_request, encode_answer, encode_hello};

/// The proxy's end of the connection, which the test drives.
struct Proxy(SeqPacket);

impl Proxy {
    async fn greet(cni: &Cni) -> Self {
        let socket = SeqPacket::connect(cni.path()).unwrap();
        socket.send(&encode_hello(), None).await.unwrap();
        Self(socket)
    }

    /// Receives the next request, and returns it with the number of its descriptors.
    async fn hear(&self) -> (Request, usize) {
        let packet = self.0.recv().await.unwrap().expect("a request");
        (decode_request(&packet.bytes).unwrap(), packet.fds.len())
    }

    async fn say(&self, answer: Answer) {
        self.0.send(&encode_answer(&answer), None).await.unwrap();
    }

    async fn accept(&self) -> (Request, usize) {
        let heard = self.hear().await;
        self.say(Answer::Done).await;
        heard
    }

    /// Whether the connection was closed: by an end, or by a reset if bytes were left unread.
    async fn closed(&self) -> bool {
        !matches!(self.0.recv().await, Ok(Some(_)))
    }
}

fn start(name: &str) -> Cni {
    let dir = std::env::temp_dir().join(format!("warren-cni-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    Cni::start(&dir.join("ztunnel.sock")).unwrap()
}

fn pod(uid: &str, netns: bool) -> CniPod {
    let info = PodInfo { name: uid.into(), namespace: "shop".into(), service_account: "web".into() };
    let netns = netns.then(|| Arc::new(OwnedFd::from(File::open("/proc/self/ns/net").unwrap())));
    CniPod { uid: uid.into(), info, netns }
}

fn add(uid: &str) -> Request {
    pod(uid, true).request()
}

fn del(uid: &str) -> Request {
    Request::Del { uid: uid.into() }
}

#[tokio::test]
async fn a_snapshot_names_every_pod_then_live_changes_follow() {
    let cni = start("snapshot");
    assert!(matches!(cni.add(pod("a", true)).await, Err(CniError::NoProxy)));
    cni.know(pod("b", false));
    let proxy = Proxy::greet(&cni).await;
    assert_eq!(proxy.accept().await, (add("a"), 1));
    assert_eq!(proxy.accept().await, (Request::Keep { uid: "b".into() }, 0));
    assert_eq!(proxy.accept().await, (Request::SnapshotSent, 0));
    cni.status().wait_for(|s| s.snapshots == 1).await.unwrap();
    let (added, heard) = tokio::join!(cni.add(pod("c", true)), proxy.accept());
    assert!(added.is_ok());
    assert_eq!(heard, (add("c"), 1));
    let (deleted, heard) = tokio::join!(cni.del("a"), proxy.accept());
    assert!(deleted.is_ok());
    assert_eq!(heard, (del("a"), 0));
    let log: Vec<_> = cni.status().borrow().log.iter().map(|e| e.outcome.clone()).collect();
    assert_eq!(log, vec![Outcome::Done; 5]);
}

#[tokio::test]
async fn a_refusal_is_heard_and_the_connection_goes_on() {
    let cni = start("refusal");
    let proxy = Proxy::greet(&cni).await;
    proxy.accept().await;
    cni.status().wait_for(|s| s.snapshots == 1).await.unwrap();
    let refuse = async {
        proxy.hear().await;
        proxy.say(Answer::Refused("port taken".into())).await;
    };
    let (added, ()) = tokio::join!(cni.add(pod("a", true)), refuse);
    let Err(CniError::Failed(Outcome::Refused(why))) = added else { panic!("{added:?}") };
    assert_eq!(why, "port taken");
    let (again, _) = tokio::join!(cni.add(pod("a", true)), proxy.accept());
    assert!(again.is_ok());
}

#[tokio::test]
async fn adds_go_to_the_newest_and_dels_to_all() {
    let cni = start("two");
    let old = Proxy::greet(&cni).await;
    old.accept().await;
    cni.status().wait_for(|s| s.snapshots == 1).await.unwrap();
    let new = Proxy::greet(&cni).await;
    new.accept().await;
    cni.status().wait_for(|s| s.snapshots == 2 && s.connections == 2).await.unwrap();
    let (added, heard) = tokio::join!(cni.add(pod("a", true)), new.accept());
    assert_eq!((added.is_ok(), heard), (true, (add("a"), 1)));
    let (deleted, one, other) = tokio::join!(cni.del("a"), old.accept(), new.accept());
    assert!(deleted.is_ok());
    assert_eq!((one, other), ((del("a"), 0), (del("a"), 0)));
    drop(new);
    cni.status().wait_for(|s| s.connections == 1).await.unwrap();
    let (added, heard) = tokio::join!(cni.add(pod("b", true)), old.accept());
    assert_eq!((added.is_ok(), heard), (true, (add("b"), 1)), "the old one is the newest again");
}

#[tokio::test]
async fn whoever_speaks_unasked_or_greets_wrongly_is_disconnected() {
    let cni = start("unasked");
    let proxy = Proxy::greet(&cni).await;
    proxy.accept().await;
    cni.status().wait_for(|s| s.snapshots == 1).await.unwrap();
    proxy.say(Answer::Done).await;
    assert!(proxy.closed().await);
    let stranger = Proxy(SeqPacket::connect(cni.path()).unwrap());
    stranger.0.send(&[0x08, 0x07], None).await.unwrap();
    assert!(stranger.closed().await);
    let status = cni.status().wait_for(|s| s.violations == 2).await.unwrap().clone();
    assert_eq!(status.connections, 0);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_after_5_s() {
    let cni = start("mute");
    let proxy = Proxy::greet(&cni).await;
    proxy.accept().await;
    cni.status().wait_for(|s| s.snapshots == 1).await.unwrap();
    let mute = async {
        proxy.hear().await;
        tokio::time::pause();
    };
    let (added, ()) = tokio::join!(cni.add(pod("a", true)), mute);
    assert!(matches!(added, Err(CniError::Failed(Outcome::TimedOut))), "{added:?}");
}

#[tokio::test]
async fn hanging_up_and_dropping_close_the_connections_and_remove_the_socket() {
    let cni = start("drop");
    let proxy = Proxy::greet(&cni).await;
    proxy.accept().await;
    cni.hang_up();
    assert!(proxy.closed().await);
    cni.status().wait_for(|s| s.connections == 0).await.unwrap();
    let proxy = Proxy::greet(&cni).await;
    proxy.accept().await;
    let path = cni.path().to_owned();
    drop(cni);
    assert!(proxy.closed().await);
    assert!(!path.exists());
}
