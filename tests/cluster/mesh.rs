//! The proxies: their release by either chart, their metrics, and the state that each test starts from.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use crate::harness::{Cluster, Ended, LIMIT, MESHED, OUTSIDE, PodOn, SYSTEM, eventually};

/// The Helm release. istiod and its tools know the proxies by this name.
const RELEASE: &str = "ztunnel";
/// What a proxy's pods have.
pub(crate) const PROXIES: &str = "app=ztunnel";
const APPS: &str = include_str!("apps.yaml");

/// Whose chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chart {
    Warren,
    Ztunnel,
}

/// The release that was there before the tests: its revision.
pub(crate) struct Before(Option<String>);

/// The samples of one proxy: series with labels, and values.
pub(crate) struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

// === the release ===

/// Remembers the release that is there, to put it back at the end.
pub(crate) fn before(cluster: &Cluster) -> Before {
    Before(revision(cluster))
}

/// Takes away what the tests made, and puts the former release back.
pub(crate) fn put_back(cluster: &Cluster, before: &Before) {
    for namespace in [MESHED, OUTSIDE] {
        cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--wait=true"]);
    }
    match &before.0 {
        None => drop(cluster.helm(&["uninstall", RELEASE, "--wait"])),
        Some(revision) => {
            let back = cluster.helm(&["rollback", RELEASE, revision, "--history-max=0"]);
            if back.ok {
                cluster.one_on_each_node(SYSTEM, PROXIES);
            } else {
                println!("the release {RELEASE} is not put back to revision {revision}: {}", back.output);
            }
        }
    }
}

/// The number of the release's revision that is in force.
pub(crate) fn revision(cluster: &Cluster) -> Option<String> {
    let found = cluster.helm(&["status", RELEASE, "-o", "json"]);
    let release: serde_json::Value = serde_json::from_str(&found.output).ok()?;
    (found.ok && release["info"]["status"] == "deployed").then(|| release["version"].to_string())
}

/// Installs or upgrades the release. `set` is what `--set` takes, and comes on top of the values of all tests.
pub(crate) fn try_deploy(cluster: &Cluster, chart: Chart, set: &[&str]) -> Ended {
    let (image, folder) = (&cluster.setup.proxy_image, chart_folder(cluster, chart));
    let mut text = format!(
        "profile: ambient\nimage: {image}\nimagePullPolicy: IfNotPresent\n\
         resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}\n"
    );
    match chart {
        Chart::Warren => text.push_str("warren: {chaos: true}\n"),
        Chart::Ztunnel => text.push_str("variant: \"\"\n"),
    }
    let file = env::temp_dir().join(format!("warren-tests-{}.yaml", std::process::id()));
    fs::write(&file, text).unwrap();
    let (folder, file) = (folder.to_string_lossy(), file.to_string_lossy());
    // The revision that was there before the tests is needed at their end.
    let mut words = vec!["upgrade", "--install", RELEASE, &folder, "--history-max=0", "-f", &file];
    if let Some(values) = &cluster.setup.values {
        words.extend(["-f", values]);
    }
    for one in set {
        words.extend(["--set", one]);
    }
    let ended = cluster.helm(&words);
    fs::remove_file(&*file).unwrap();
    ended
}

/// Installs or upgrades the release, and waits until each node has a ready proxy and no former one.
#[track_caller]
pub(crate) fn deploy(cluster: &Cluster, chart: Chart, set: &[&str]) {
    let ended = try_deploy(cluster, chart, set);
    assert!(ended.ok, "helm upgrade: {}", ended.output);
    rolled_out(cluster);
}

/// Waits until the proxies are those of the release in force.
pub(crate) fn rolled_out(cluster: &Cluster) {
    cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "status", "daemonset/ztunnel", "--timeout=200s"]);
    cluster.old_ones_gone(SYSTEM, PROXIES);
    cluster.one_on_each_node(SYSTEM, PROXIES);
}

fn chart_folder(cluster: &Cluster, chart: Chart) -> PathBuf {
    match chart {
        Chart::Warren => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/chart"),
        Chart::Ztunnel => PathBuf::from(&cluster.setup.ztunnel_chart),
    }
}

/// Whose chart the release is of now, with no values but those of all tests.
fn is_plain(cluster: &Cluster) -> bool {
    let found = cluster.helm(&["get", "metadata", RELEASE, "-o", "json"]);
    let values = cluster.helm(&["get", "values", RELEASE, "-o", "json"]);
    let (Ok(release), Ok(values)) = (
        serde_json::from_str::<serde_json::Value>(&found.output),
        serde_json::from_str::<serde_json::Value>(&values.output),
    ) else {
        return false;
    };
    let plain = ["profile", "image", "imagePullPolicy", "resources", "warren"];
    let known =
        values.as_object().is_some_and(|values| values.keys().all(|key| plain.contains(&key.as_str())));
    release["chart"] == "warren"
        && release["status"] == "deployed"
        && known
        && values["warren"] == serde_json::json!({"chaos": true})
        && values["resources"].get("limits").is_none()
        && values["image"] == cluster.setup.proxy_image.as_str()
}

/// The state that each test starts from: warren's chart, the applications, and no policy.
pub(crate) fn fresh(cluster: &Cluster) {
    if cluster.setup.values.is_some() || !is_plain(cluster) {
        deploy(cluster, Chart::Warren, &[]);
    }
    proxies(cluster);
    cluster.apply(APPS);
    label(cluster, MESHED, true);
    label(cluster, OUTSIDE, false);
    for app in ["app=server", "app=client", "app=caller"] {
        cluster.one_on_each_node(MESHED, app);
    }
    cluster.one_on_each_node(OUTSIDE, "app=outsider");
    for caller in callers(cluster) {
        eventually(&format!("answer to {}", caller.name), LIMIT, || {
            cluster.get(MESHED, &caller.name, "http://server.warren-tests/")
        });
    }
}

/// Puts a namespace into the mesh, or takes it out.
pub(crate) fn label(cluster: &Cluster, namespace: &str, meshed: bool) {
    let label = if meshed { "istio.io/dataplane-mode=ambient" } else { "istio.io/dataplane-mode-" };
    cluster.kubectl_ok(&["label", "namespace", namespace, label, "--overwrite"]);
}

/// Removes the release.
pub(crate) fn uninstall(cluster: &Cluster) {
    cluster.helm_ok(&["uninstall", RELEASE, "--wait"]);
}

/// Goes back to an earlier revision.
pub(crate) fn rollback(cluster: &Cluster, revision: &str) {
    cluster.helm_ok(&["rollback", RELEASE, revision, "--history-max=0"]);
}

// === pods ===

/// The ready proxies, in the order of their nodes.
pub(crate) fn proxies(cluster: &Cluster) -> Vec<PodOn> {
    cluster.one_on_each_node(SYSTEM, PROXIES)
}

pub(crate) fn servers(cluster: &Cluster) -> Vec<PodOn> {
    cluster.one_on_each_node(MESHED, "app=server")
}

pub(crate) fn callers(cluster: &Cluster) -> Vec<PodOn> {
    cluster.one_on_each_node(MESHED, "app=caller")
}

pub(crate) fn outsiders(cluster: &Cluster) -> Vec<PodOn> {
    cluster.one_on_each_node(OUTSIDE, "app=outsider")
}

// === impl Metrics ===

/// The metrics of the proxy on a node.
pub(crate) fn metrics_on(cluster: &Cluster, node: &str) -> Metrics {
    let proxies = proxies(cluster);
    let proxy = proxies.iter().find(|proxy| proxy.node == node).unwrap();
    let text = eventually("answer of the metrics port", LIMIT, || {
        cluster.ask(SYSTEM, &proxy.name, 15020, "/metrics")
    });
    Metrics(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let line = line.split_once(" # {").map_or(line, |(sample, _exemplar)| sample);
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}')?.split("\",").filter_map(|pair| {
        let (key, text) = pair.split_once("=\"")?;
        Some((key.to_owned(), text.trim_end_matches('"').to_owned()))
    });
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}

impl Metrics {
    /// The sum of a family's samples with these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| of.get(*key).map(String::as_str) == Some(*value))
        };
        self.0.iter().filter(|(series, of, _)| series == name && has(of)).map(|(_, _, value)| value).sum()
    }
}

/// A service account's name in certificates.
pub(crate) fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/{MESHED}/sa/{account}")
}
