//! The actor on a real file, on a paused clock.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    file::{self, Debounce, Signs},
    handle::Crl,
    shared::Tunnels,
};
use crate::{
    dataplane::{
        pod::conns::{PeerTunnel, PodConns, TunnelInfo, cut},
        tracked_hop::TrackedHop,
    },
    protocols::{
        identity::Identity,
        labels::Reporter,
        tls::{RevocationLists, Revocations, WorkloadCert, test_ca::TestCa},
    },
    runtime::conns::ConnSet,
    supervisor::{Strategy, SupervisorSpec, Tree},
    telemetry::metrics::Metrics,
};

/// A directory of a test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("warren-crl-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("ca-crl.pem")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The tunnels of one pod, and no local hops.
#[derive(Clone)]
struct TestTunnels(Arc<PodConns>);

impl Tunnels for TestTunnels {
    fn tunnels(&self) -> Vec<(ConnSet<PeerTunnel>, ConnSet<TunnelInfo>)> {
        vec![(self.0.peers.clone(), self.0.dialled.clone())]
    }

    fn hops(&self) -> ConnSet<TrackedHop> {
        ConnSet::new(1)
    }
}

struct Bed {
    dir: Dir,
    ca: TestCa,
    lists: Arc<Revocations>,
    own: WorkloadCert,
    tunnels: TestTunnels,
    metrics: Arc<Metrics>,
}

fn id(account: &str) -> Identity {
    Identity::new("cluster.local", "default", account).unwrap()
}

impl Bed {
    fn new(name: &str) -> Self {
        let (ca, lists) = (TestCa::new("root"), Arc::<Revocations>::default());
        let own = ca.issue(&id("own")).checking(lists.clone());
        let tunnels = TestTunnels(PodConns::new(1));
        Self { dir: Dir::new(name), ca, lists, own, tunnels, metrics: Metrics::new("t").unwrap() }
    }

    fn crl(&self, required: bool) -> Crl {
        let tunnels = Arc::new(self.tunnels.clone());
        Crl::new(self.dir.file(), required, self.lists.clone(), tunnels, self.metrics.clone())
    }

    async fn start(&self, crl: &Crl) -> Result<Tree, String> {
        let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(crl.child());
        Tree::start(spec).await.map_err(|error| error.to_string())
    }

    fn write(&self, serials: &[u64]) {
        fs::write(self.dir.file(), self.ca.list(0, serials).pem().unwrap()).unwrap();
    }

    /// Whether the list in force names `serial`.
    fn revokes(&self, serial: u64) -> bool {
        self.own.client_chain(self.leaf(serial), now()).unwrap().is_revoked()
    }

    fn leaf(&self, serial: u64) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        use rustls_pki_types::pem::PemObject;
        let pem = self.ca.issue_numbered(&id("peer"), serial).leaf_pem;
        vec![PemObject::from_pem_slice(pem.as_bytes()).unwrap()]
    }

    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let since = Instant::now();
        while !done() {
            assert!(since.elapsed() < Duration::from_secs(60), "{what}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn now() -> rustls_pki_types::UnixTime {
    rustls_pki_types::UnixTime::now()
}

#[test]
fn a_change_counts_once_it_has_rested_for_two_seconds() {
    let signs = |inode| Some(Signs { inode: (1, inode), size: 1, modified: (0, 0), changed: (0, 0) });
    let mut debounce = Debounce::new(signs(1));
    let begin = Instant::now();
    for (at_ms, stamp, read) in [
        (0, signs(1), false),
        (500, signs(2), false),
        (2_400, signs(2), false),
        (2_500, signs(2), true),
        (3_000, signs(2), false),
        (3_500, signs(3), false),
        (4_500, signs(4), false), // in between it changed again
        (6_000, signs(4), false),
        (6_500, signs(4), true),
        (7_000, None, false),
        (8_000, signs(4), false), // it is back before anybody has noticed
        (9_000, None, false),
        (10_500, None, false),
        (11_000, None, true),
    ] {
        assert_eq!(debounce.look(stamp, begin + Duration::from_millis(at_ms)), read, "{at_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_read_when_it_comes_and_a_bad_one_changes_nothing() {
    let bed = Bed::new("missing");
    let tree = bed.start(&bed.crl(false)).await.unwrap();
    assert_eq!(bed.lists.generation(), 0);
    bed.write(&[5]);
    bed.until("the file is read", || bed.revokes(5)).await;
    fs::write(bed.dir.file(), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(bed.revokes(5), "the lists in force stay");
    fs::remove_file(bed.dir.file()).unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(bed.revokes(5), "the lists in force stay");
    bed.write(&[6]);
    bed.until("the file is read again", || bed.revokes(6)).await;
    assert!(!bed.revokes(5), "no longer revoked");
    fs::write(bed.dir.file(), "").unwrap();
    bed.until("an empty file revokes nobody", || !bed.revokes(6)).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_bad_at_the_start_revokes_nobody_until_it_changes() {
    let bed = Bed::new("bad");
    fs::write(bed.dir.file(), "junk").unwrap();
    let tree = bed.start(&bed.crl(false)).await.unwrap();
    assert_eq!(bed.lists.generation(), 0);
    bed.write(&[5]);
    bed.until("the file is read", || bed.revokes(5)).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_required_file_that_cannot_be_used_refuses_the_start_and_only_the_start() {
    let bed = Bed::new("required");
    let missing = bed.start(&bed.crl(true)).await.err().unwrap();
    assert!(missing.contains("CRL_PATH") && missing.contains("WARREN_CRL_REQUIRED=true"), "{missing}");
    fs::write(bed.dir.file(), "junk").unwrap();
    bed.start(&bed.crl(true)).await.err().unwrap();
    fs::write(bed.dir.file(), vec![b' '; (4 << 20) + 1]).unwrap();
    let large = bed.start(&bed.crl(true)).await.err().unwrap();
    assert!(large.contains("4 MiB"), "{large}");
    bed.write(&[5]);
    let tree = bed.start(&bed.crl(true)).await.unwrap();
    assert!(bed.revokes(5));
    fs::remove_file(bed.dir.file()).unwrap();
    // An actor that comes back without the file keeps the lists.
    tree.handle().kill("root/crl").unwrap();
    bed.until("the actor is back", || tree.handle().find("root/crl").is_ok_and(|crl| crl.restarts > 0)).await;
    assert!(bed.revokes(5));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_swap_of_a_config_map_is_noticed() {
    let bed = Bed::new("swap");
    let version = |name: &str, serials: &[u64]| {
        let dir = bed.dir.0.join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("ca-crl.pem"), bed.ca.list(0, serials).pem().unwrap()).unwrap();
    };
    // As the kubelet does it: the file links into ..data, which links to a directory.
    version("..one", &[5]);
    symlink("..one", bed.dir.0.join("..data")).unwrap();
    symlink(Path::new("..data/ca-crl.pem"), bed.dir.file()).unwrap();
    let tree = bed.start(&bed.crl(false)).await.unwrap();
    assert!(bed.revokes(5));
    version("..two", &[6]);
    symlink("..two", bed.dir.0.join("..data_tmp")).unwrap();
    fs::rename(bed.dir.0.join("..data_tmp"), bed.dir.0.join("..data")).unwrap();
    fs::remove_dir_all(bed.dir.0.join("..one")).unwrap();
    bed.until("the new version is read", || bed.revokes(6) && !bed.revokes(5)).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_cuts_exactly_the_tunnels_of_revoked_peers() {
    let bed = Bed::new("cuts");
    bed.write(&[]);
    let tree = bed.start(&bed.crl(false)).await.unwrap();
    let (conns, peer) = (&bed.tunnels.0, ([10, 0, 0, 1], 1).into());
    let keep = |tunnel: &TunnelInfo, serial: u64| {
        let chain = bed.own.client_chain(bed.leaf(serial), now());
        assert!(tunnel.keep(chain, &bed.metrics.crl, Reporter::Source));
    };
    let from_peer = |serial| {
        let tunnel = conns.peers.admit(0, conns.peer_tunnel(peer)).unwrap();
        keep(&tunnel.info().of, serial);
        tunnel
    };
    let to_peer = |serial| {
        let tunnel = conns.dialled.admit(0, TunnelInfo::new(peer)).unwrap();
        keep(tunnel.info(), serial);
        tunnel
    };
    let (a, b, c, d) = (from_peer(5), from_peer(6), to_peer(5), to_peer(7));
    // A tunnel in its handshake has no certificates yet.
    let early = conns.peers.admit(0, conns.peer_tunnel(([10, 0, 0, 2], 1).into())).unwrap();
    let written = Instant::now();
    bed.write(&[5]);
    bed.until("the tunnels are cut", || a.cut_reason().is_some() && c.cut_reason().is_some()).await;
    // The debounce, and less than a second beyond.
    assert!(written.elapsed() < Duration::from_secs(4), "{:?}", written.elapsed());
    assert_eq!(
        [a.cut_reason(), b.cut_reason(), c.cut_reason(), d.cut_reason(), early.cut_reason()],
        [Some(cut::REVOKED), None, Some(cut::REVOKED), None, None]
    );
    let text = bed.metrics.encode();
    for reporter in ["source", "destination"] {
        let line = format!("istio_crl_policy_rejections_total{{reporter=\"{reporter}\"}} 1");
        assert!(text.contains(&line), "{text}");
    }
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_parser_costs_one_restart_and_no_list() {
    let bed = Bed::new("panic");
    bed.write(&[5]);
    let mut crl = bed.crl(false);
    Arc::get_mut(&mut crl.shared).unwrap().parse = |file| {
        assert!(file != b"poison", "the parser fails");
        RevocationLists::parse(file)
    };
    let tree = bed.start(&crl).await.unwrap();
    let restarts = || tree.handle().find("root/crl").unwrap().restarts;
    fs::write(bed.dir.file(), "poison").unwrap();
    bed.until("the actor crashed and came back", || restarts() == 1).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(restarts(), 1, "the same file is not tried again");
    assert!(bed.revokes(5), "the lists in force stay");
    bed.write(&[6]);
    bed.until("a sound file is read", || bed.revokes(6)).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_file_that_is_too_large_is_parsed() {
    let dir = Dir::new("large");
    fs::write(dir.file(), vec![b'-'; (4 << 20) + 1]).unwrap();
    let error = file::read(&dir.file()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    fs::write(dir.file(), vec![b'-'; 4 << 20]).unwrap();
    assert_eq!(file::read(&dir.file()).await.unwrap().len(), 4 << 20);
}
