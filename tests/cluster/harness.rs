//! The cluster under test: its API by kube-rs, `kubectl` and `helm` with time limits, and waits that say what is missing.

use std::{
    env,
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, LogParams},
};
use tokio::runtime::Runtime;

/// Where Istio and the proxies are.
pub(crate) const SYSTEM: &str = "istio-system";
/// The namespace whose pods are in the mesh, and the one whose pods are not.
pub(crate) const MESHED: &str = "warren-tests";
pub(crate) const OUTSIDE: &str = "warren-tests-outside";
/// The applications' program in their image.
const APP: &str = "/usr/local/bin/warren";
/// Longer than any step takes that ends well.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
const COMMAND_LIMIT: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(250);

/// What the tests need to be told.
pub(crate) struct Setup {
    pub proxy_image: String,
    pub app_image: String,
    /// The folder of ztunnel's chart.
    pub ztunnel_chart: String,
    /// A values file of this cluster alone, such as its platform.
    pub values: Option<String>,
    /// Commands for a shell that bring a further node, with the images on it, and take it away again.
    pub add_node: Option<String>,
    pub remove_node: Option<String>,
    helm: String,
    kubectl: String,
}

/// The cluster, its clients and its tools.
pub(crate) struct Cluster {
    pub setup: Setup,
    runtime: Runtime,
    client: Client,
}

/// A node proxy's pod.
#[derive(Clone, Debug)]
pub(crate) struct PodOn {
    pub name: String,
    pub node: String,
    pub uid: String,
    pub ip: String,
}

/// A command's end.
pub(crate) struct Ended {
    pub ok: bool,
    pub output: String,
}

// === impl Setup ===

impl Setup {
    /// Reads the environment. The error says what to set.
    pub(crate) fn read() -> Result<Self, String> {
        let optional = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let needed = |name: &str, what: &str| {
            optional(name)
                .ok_or_else(|| format!("{name} is not set: it has to be {what}; see tests/cluster/run"))
        };
        needed("KUBECONFIG", "the kubeconfig of a cluster with istiod and istio-cni in ambient mode")?;
        Ok(Self {
            proxy_image: needed("WARREN_IMAGE", "the proxy's image, which the nodes have")?,
            app_image: needed(
                "WARREN_TESTS_IMAGE",
                "the image of tests/cluster/image.sh, which the nodes have",
            )?,
            ztunnel_chart: needed("ZTUNNEL_CHART", "the folder of ztunnel's Helm chart")?,
            values: optional("WARREN_TESTS_VALUES"),
            add_node: optional("WARREN_TESTS_ADD_NODE"),
            remove_node: optional("WARREN_TESTS_REMOVE_NODE"),
            helm: optional("HELM").unwrap_or_else(|| "helm".to_owned()),
            kubectl: optional("KUBECTL").unwrap_or_else(|| "kubectl".to_owned()),
        })
    }
}

// === impl Cluster ===

impl Cluster {
    /// Connects, and looks whether all is there that the tests do not bring along.
    pub(crate) fn connect(setup: Setup) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(in_words)?;
        let client = runtime.block_on(async {
            let config = Config::infer().await.map_err(|error| format!("KUBECONFIG: {error}"))?;
            Client::try_from(config).map_err(in_words)
        })?;
        let cluster = Self { setup, runtime, client };
        let version = cluster.runtime.block_on(cluster.client.apiserver_version());
        let version = version.map_err(|error| format!("the API server does not answer: {error}"))?;
        let nodes = cluster.nodes();
        println!("Kubernetes {}, nodes {}", version.git_version, nodes.join(" "));
        if nodes.len() < 2 {
            return Err(format!("the cluster has {} node: the tests need two", nodes.len()));
        }
        for (what, kind) in [("istiod", "deployment/istiod"), ("istio-cni", "daemonset/istio-cni-node")] {
            let found = cluster.kubectl(&["-n", SYSTEM, "get", kind]);
            if !found.ok {
                return Err(format!("{SYSTEM} has no {what}: {}", found.output.trim()));
            }
        }
        Ok(cluster)
    }

    /// The names of nodes that pods may run on.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = self.runtime.block_on(nodes.list(&ListParams::default())).unwrap();
        found.items.into_iter().filter_map(|node| node.metadata.name).collect()
    }

    /// The pods with a label that are not on their way out.
    pub(crate) fn pods(&self, namespace: &str, label: &str) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = self.runtime.block_on(pods.list(&ListParams::default().labels(label))).unwrap();
        found.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// The pods with a label, one on each node, once all of them are ready.
    pub(crate) fn one_on_each_node(&self, namespace: &str, label: &str) -> Vec<PodOn> {
        let nodes = self.nodes();
        eventually(&format!("one ready pod {label} on each node"), LIMIT, || {
            let pods = self.pods(namespace, label);
            let waiting: Vec<String> = pods.iter().filter(|pod| !is_ready(pod)).map(state).collect();
            if pods.len() != nodes.len() || !waiting.is_empty() {
                return Err(format!("{} pods of {}, not ready: {waiting:?}", pods.len(), nodes.len()));
            }
            let mut pods: Vec<PodOn> = pods.iter().map(PodOn::of).collect();
            pods.sort_by(|one, other| one.node.cmp(&other.node));
            Ok(pods)
        })
    }

    /// Waits until nothing with this label is on its way out any more.
    pub(crate) fn old_ones_gone(&self, namespace: &str, label: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        eventually(&format!("end of the former pods {label}"), LIMIT, || {
            let found = self.runtime.block_on(pods.list(&ListParams::default().labels(label)));
            let found = found.map_err(in_words)?;
            let old = found.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some());
            match old.map(state).collect::<Vec<_>>() {
                old if old.is_empty() => Ok(()),
                old => Err(format!("{old:?}")),
            }
        });
    }

    /// One pod as it is now.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        self.runtime.block_on(pods.get_opt(name)).unwrap()
    }

    /// Deletes a pod and does not wait for its end.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        drop(self.runtime.block_on(pods.delete(name, &DeleteParams::default())).unwrap());
    }

    /// The end of a container's log.
    pub(crate) fn log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        lines: i64,
    ) -> Result<String, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let asked = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(lines),
            ..LogParams::default()
        };
        self.runtime.block_on(pods.logs(pod, &asked)).map_err(in_words)
    }

    /// What a pod's HTTP port answers, asked by way of the API server.
    pub(crate) fn ask(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String, String> {
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = http::Request::get(uri).body(Vec::new()).map_err(in_words)?;
        self.runtime.block_on(self.client.request_text(request)).map_err(in_words)
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Ended {
        run(&self.setup.kubectl, arguments, "")
    }

    /// `kubectl`, which has to succeed.
    #[track_caller]
    pub(crate) fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let ended = self.kubectl(arguments);
        assert!(ended.ok, "kubectl {}: {}", arguments.join(" "), ended.output);
        ended.output
    }

    pub(crate) fn helm(&self, arguments: &[&str]) -> Ended {
        run(&self.setup.helm, &[&["-n", SYSTEM], arguments].concat(), "")
    }

    /// `helm` in the system's namespace, which has to succeed.
    #[track_caller]
    pub(crate) fn helm_ok(&self, arguments: &[&str]) -> String {
        let ended = self.helm(arguments);
        assert!(ended.ok, "helm {}: {}", arguments.join(" "), ended.output);
        ended.output
    }

    /// Applies objects. IMAGE in them is the applications' image.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &str) {
        let ended = self.try_apply(objects);
        assert!(ended.ok, "kubectl apply: {}\n{objects}", ended.output);
    }

    pub(crate) fn try_apply(&self, objects: &str) -> Ended {
        let objects = objects.replace("IMAGE", &self.setup.app_image);
        run(&self.setup.kubectl, &["apply", "-f", "-"], &objects)
    }

    /// Deletes objects, which need not be there.
    pub(crate) fn delete(&self, objects: &str) {
        let arguments = ["delete", "--ignore-not-found", "--wait=true", "-f", "-"];
        let ended = run(&self.setup.kubectl, &arguments, objects);
        assert!(ended.ok, "kubectl delete: {}", ended.output);
    }

    /// Runs the applications' program in a pod.
    pub(crate) fn app(&self, namespace: &str, pod: &str, arguments: &[&str]) -> Ended {
        let container = if pod.starts_with("client-") { "load" } else { "app" };
        let words = [&["-n", namespace, "exec", pod, "-c", container, "--", APP], arguments].concat();
        let mut ended = self.kubectl(&words);
        // kubectl adds a line of its own after a failure.
        let lines: Vec<&str> =
            ended.output.lines().filter(|line| !line.starts_with("command terminated")).collect();
        ended.output = lines.join("\n");
        ended
    }

    /// One request from a pod; an error is why there was no answer.
    pub(crate) fn get(&self, namespace: &str, pod: &str, url: &str) -> Result<String, String> {
        let ended = self.app(namespace, pod, &["get", url]);
        if ended.ok { Ok(ended.output) } else { Err(ended.output) }
    }

    /// Runs `warren` in a proxy's pod.
    pub(crate) fn warren(&self, proxy: &PodOn, arguments: &[&str]) -> Ended {
        let start = ["-n", SYSTEM, "exec", &proxy.name, "-c", "istio-proxy", "--", "warren"];
        self.kubectl(&[&start, arguments].concat())
    }

    /// Runs a command of the setup in a shell.
    #[track_caller]
    pub(crate) fn shell(&self, command: &str) {
        let ended = run("sh", &["-c", command], "");
        assert!(ended.ok, "{command}: {}", ended.output);
    }
}

// === impl PodOn ===

impl PodOn {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            node: pod.spec.clone().unwrap_or_default().node_name.unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            ip: status.pod_ip.unwrap_or_default(),
        }
    }
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Since when a pod is ready, in seconds of Unix time.
pub(crate) fn ready_since(pod: &Pod) -> Option<f64> {
    let conditions = pod.status.clone()?.conditions?;
    let ready =
        conditions.into_iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time?.0.as_second() as f64)
}

/// A pod with what it waits for.
pub(crate) fn state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut waits = Vec::new();
    for container in status.container_statuses.unwrap_or_default() {
        let state = container.state.unwrap_or_default();
        if let Some(waiting) = state.waiting {
            waits.push(format!(
                "{} {}",
                waiting.reason.unwrap_or_default(),
                waiting.message.unwrap_or_default()
            ));
        } else if !container.ready {
            waits.push(format!("{} is not ready, {} restarts", container.name, container.restart_count));
        }
    }
    format!("{} {waits:?}", pod.metadata.name.clone().unwrap_or_default())
}

/// How a pod's first container ended last, and how often it was started again.
pub(crate) fn last_end(pod: &Pod) -> (i32, Option<(i32, String)>) {
    let statuses = pod.status.clone().unwrap_or_default().container_statuses.unwrap_or_default();
    let Some(container) = statuses.into_iter().next() else { return (0, None) };
    let ended = container.last_state.and_then(|state| state.terminated);
    (container.restart_count, ended.map(|end| (end.exit_code, end.reason.unwrap_or_default())))
}

/// Tries until it succeeds. Past the limit the panic says what did not come, and the last error.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("after {limit:?} still no {what}: {why}"),
            Err(_) => pause(LOOK),
        }
    }
}

/// Lets the cluster go on for a while.
pub(crate) fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// Runs a program with `input` and returns all that it printed. Past the limit it is ended, and has failed.
fn run(program: &str, arguments: &[&str], input: &str) -> Ended {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended { ok: false, output: format!("{program} cannot be run: {error}") },
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = thread::spawn(move || read_all(&mut stdout));
    let err = thread::spawn(move || read_all(&mut stderr));
    let deadline = Instant::now() + COMMAND_LIMIT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                drop(child.kill());
                drop(child.wait());
                break None;
            }
            None => pause(Duration::from_millis(20)),
        }
    };
    writer.join().unwrap();
    let mut output = out.join().unwrap();
    output.push_str(&err.join().unwrap());
    if status.is_none() {
        output.push_str(&format!("\n{program} was ended after {COMMAND_LIMIT:?}"));
    }
    Ended { ok: status.is_some_and(|status| status.success()), output }
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    drop(from.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}
