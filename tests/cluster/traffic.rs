//! What the clients see while something happens: requests that failed, and kept connections that were cut.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::harness::{Cluster, LIMIT, MESHED, eventually, pause};

/// The clients' containers, with the kept connections of each.
const CLIENTS: [(&str, u64); 3] = [("load", 0), ("hold", 4), ("near", 2)];
/// A request that hangs fails after 5 s: what happened before the end of a step is told by then.
const LAST_FAILURES: Duration = Duration::from_secs(6);
/// How much of a log to look at for the last summary: it comes twice a second, among lines of failures.
const LOG_LINES: i64 = 400;
/// The lines of failures that are shown for each client.
const SHOWN: usize = 4;

/// What a client's requests came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub ok: u64,
    pub failed: u64,
    pub cut: u64,
}

/// What a step cost each client: by node and container.
pub(crate) struct Cost {
    what: String,
    of: BTreeMap<(String, &'static str), Tally>,
    samples: Vec<String>,
}

/// The costs of all steps, for the table at the end.
static COSTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Does `step` under the clients' traffic, and says what it cost them. All clients are new at the beginning, and served
/// again at the end.
#[track_caller]
pub(crate) fn during(cluster: &Cluster, what: &str, step: impl FnOnce()) -> Cost {
    renew(cluster);
    served(cluster);
    let before = tallies(cluster);
    step();
    pause(LAST_FAILURES);
    served(cluster);
    let after = tallies(cluster);
    let mut of = BTreeMap::new();
    for (client, after) in after {
        // A client that came with the step, such as on a new node, began at nothing.
        let before = before.get(&client).copied().unwrap_or_default();
        let now = Tally {
            ok: after.ok.saturating_sub(before.ok),
            failed: after.failed.saturating_sub(before.failed),
            cut: after.cut.saturating_sub(before.cut),
        };
        of.insert(client, now);
    }
    let cost = Cost { what: what.to_owned(), samples: samples(cluster, &of), of };
    println!("{}", cost.told());
    COSTS.lock().push(cost.row());
    cost
}

/// Has all clients begin anew. Their kept connections lead to any node then: those that an earlier step cut were made
/// again while some of the nodes could not serve.
fn renew(cluster: &Cluster) {
    cluster.kubectl_ok(&["-n", MESHED, "delete", "pods", "-l", "app=client", "--wait=true"]);
    cluster.one_on_each_node(MESHED, "app=client");
}

/// The table of all costs.
pub(crate) fn table() -> String {
    let rows = COSTS.lock().join("\n");
    format!(
        "| Step | Requests | Failed: new, kept, kept within the node | Cut: kept, within the node |\n\
         |---|---|---|---|\n{rows}"
    )
}

/// Waits until every client is answered.
#[track_caller]
fn served(cluster: &Cluster) {
    let start = tallies(cluster);
    eventually("answers to all clients", LIMIT, || {
        let now = tallies(cluster);
        let silent: Vec<_> =
            start.iter().filter(|(of, was)| now.get(of).is_none_or(|now| now.ok <= was.ok)).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("nothing for {silent:?}")) }
    });
}

/// The counts of all clients now.
fn tallies(cluster: &Cluster) -> BTreeMap<(String, &'static str), Tally> {
    let mut all = BTreeMap::new();
    for pod in cluster.one_on_each_node(MESHED, "app=client") {
        for (container, _) in CLIENTS {
            let tally = eventually(&format!("counts of {} {container}", pod.name), LIMIT, || {
                let log = cluster.log(MESHED, &pod.name, container, LOG_LINES)?;
                log.lines().rev().find_map(Tally::read).ok_or_else(|| "no line of counts".to_owned())
            });
            all.insert((pod.node.clone(), container), tally);
        }
    }
    all
}

/// The last failures of those clients that had some.
fn samples(cluster: &Cluster, of: &BTreeMap<(String, &'static str), Tally>) -> Vec<String> {
    let mut lines = Vec::new();
    for pod in cluster.one_on_each_node(MESHED, "app=client") {
        for (container, _) in CLIENTS {
            let tally = of.get(&(pod.node.clone(), container)).copied().unwrap_or_default();
            if tally.failed + tally.cut == 0 {
                continue;
            }
            let log = cluster.log(MESHED, &pod.name, container, LOG_LINES * 10).unwrap_or_default();
            let told: Vec<&str> =
                log.lines().filter(|line| line.contains("FAILED") || line.contains("CUT")).collect();
            let told = told
                .get(told.len().saturating_sub((tally.failed + tally.cut) as usize)..)
                .unwrap_or_default();
            let shown =
                told.iter().take(SHOWN).chain(told.iter().skip(SHOWN.max(told.len().saturating_sub(SHOWN))));
            lines.extend(shown.map(|line| format!("  {} {container}: {line}", pod.node)));
        }
    }
    lines
}

// === impl Tally ===

impl Tally {
    /// Reads `ok=1 failed=2 cut=3 ...`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut number = |name: &str| words.next()?.strip_prefix(name)?.parse().ok();
        Some(Self { ok: number("ok=")?, failed: number("failed=")?, cut: number("cut=")? })
    }
}

// === impl Cost ===

impl Cost {
    /// What clients of this container saw; on one node, or on all.
    pub(crate) fn sum(&self, container: &str, node: Option<&str>) -> Tally {
        let mine =
            self.of.iter().filter(|((on, name), _)| *name == container && node.is_none_or(|node| node == on));
        mine.fold(Tally::default(), |sum, (_, tally)| Tally {
            ok: sum.ok + tally.ok,
            failed: sum.failed + tally.failed,
            cut: sum.cut + tally.cut,
        })
    }

    /// No request failed, and no kept connection was cut more often than that.
    #[track_caller]
    pub(crate) fn nothing_failed_and_kept_connections_were_cut_at_most(&self, times: u64) {
        for ((node, container), tally) in &self.of {
            let kept = CLIENTS.iter().find(|(name, _)| name == container).unwrap().1;
            assert_eq!(tally.failed, 0, "{node} {container}: {}", self.told());
            assert!(tally.cut <= kept * times, "{node} {container}: {}", self.told());
        }
    }

    /// Neither new nor kept connections within a node were touched.
    #[track_caller]
    pub(crate) fn nothing_within_nodes_was_cut(&self) {
        let near = self.sum("near", None);
        assert_eq!((near.failed, near.cut), (0, 0), "{}", self.told());
    }

    /// All of it, with some failures.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("{}:\n", self.what);
        for ((node, container), Tally { ok, failed, cut }) in &self.of {
            text.push_str(&format!(
                "  {node} {container:<5} {ok:>6} served {failed:>4} failed {cut:>4} cut\n"
            ));
        }
        text.push_str(&self.samples.join("\n"));
        text
    }

    fn row(&self) -> String {
        let [load, hold, near] = CLIENTS.map(|(name, _)| self.sum(name, None));
        let all = load.ok + hold.ok + near.ok + load.failed + hold.failed + near.failed;
        format!(
            "| {} | {all} | {}, {}, {} | {}, {} |",
            self.what, load.failed, hold.failed, near.failed, hold.cut, near.cut
        )
    }
}
