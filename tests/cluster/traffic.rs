//! What the clients see while something happens: requests that failed, and kept connections that were cut.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::harness::{Cluster, LIMIT, MESHED, eventually, pause};

/// The clients' containers, with the kept connections of each: 100 a node.
const CLIENTS: [(&str, u64); 3] = [("load", 0), ("hold", 80), ("near", 20)];
/// A request that hangs fails after 5 s: what happened before the end of a step is told by then.
const LAST_FAILURES: Duration = Duration::from_secs(6);
/// How much of a log to look at for the last summary: it comes twice a second, among lines of failures.
const LOG_LINES: i64 = 400;
/// How many of the first losses of each client are shown, and how many of the last.
const SHOWN: usize = 3;

/// What a client's requests came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub ok: u64,
    pub failed: u64,
    pub cut: u64,
    /// Kept connections that are open now.
    pub open: u64,
}

/// What a step cost each client: by node and container.
pub(crate) struct Cost {
    what: String,
    of: BTreeMap<(String, &'static str), Tally>,
    losses: Vec<Loss>,
}

/// A request that failed, or whose kept connection was cut.
struct Loss {
    node: String,
    container: &'static str,
    /// When the request began, in seconds of Unix time.
    began: f64,
    line: String,
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
            open: after.open,
        };
        of.insert(client, now);
    }
    let cost = Cost { what: what.to_owned(), losses: losses(cluster, &of), of };
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

/// Waits until every client is answered and all of its kept connections are open.
#[track_caller]
fn served(cluster: &Cluster) {
    let start = tallies(cluster);
    eventually("answers to all clients", LIMIT, || {
        let now = tallies(cluster);
        let is_served = |of: &(String, &str), was: &Tally| {
            now.get(of).is_some_and(|now| now.ok > was.ok && now.open == kept(of.1))
        };
        let silent: Vec<_> = start.iter().filter(|(of, was)| !is_served(of, was)).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("nothing for {silent:?}, now {now:?}")) }
    });
}

/// The kept connections of a client of this name.
fn kept(container: &str) -> u64 {
    CLIENTS.iter().find(|(name, _)| *name == container).unwrap().1
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

/// What the clients lost, as they logged it.
fn losses(cluster: &Cluster, of: &BTreeMap<(String, &'static str), Tally>) -> Vec<Loss> {
    let mut losses = Vec::new();
    for pod in cluster.one_on_each_node(MESHED, "app=client") {
        for (container, _) in CLIENTS {
            let tally = of.get(&(pod.node.clone(), container)).copied().unwrap_or_default();
            let count = (tally.failed + tally.cut) as usize;
            if count == 0 {
                continue;
            }
            let log = cluster.log(MESHED, &pod.name, container, LOG_LINES * 10).unwrap_or_default();
            let told: Vec<Loss> =
                log.lines().filter_map(|line| Loss::read(&pod.node, container, line)).collect();
            let former = told.len().saturating_sub(count);
            losses.extend(told.into_iter().skip(former));
        }
    }
    losses
}

// === impl Loss ===

impl Loss {
    /// Reads `1764518400.123 FAILED REASON after 5 ms`.
    fn read(node: &str, container: &'static str, line: &str) -> Option<Self> {
        if !line.contains(" FAILED ") && !line.contains(" CUT ") {
            return None;
        }
        let told: f64 = line.split(' ').next()?.parse().ok()?;
        let age: f64 = line.strip_suffix(" ms")?.rsplit(' ').next()?.parse().ok()?;
        Some(Self { node: node.to_owned(), container, began: told - age / 1000.0, line: line.to_owned() })
    }
}

// === impl Tally ===

impl Tally {
    /// Reads `ok=1 failed=2 cut=3 open=4 ...`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut number = |name: &str| words.next()?.strip_prefix(name)?.parse().ok();
        Some(Self {
            ok: number("ok=")?,
            failed: number("failed=")?,
            cut: number("cut=")?,
            open: number("open=")?,
        })
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
            open: sum.open + tally.open,
        })
    }

    /// No request failed, and no kept connection was cut.
    #[track_caller]
    pub(crate) fn nothing_failed_and_nothing_was_cut(&self) {
        for tally in self.of.values() {
            assert_eq!((tally.failed, tally.cut), (0, 0), "{}", self.told());
        }
    }

    /// A node's proxy was lost: what docs/upgrades.md says of other nodes. A kept connection is cut once at most, and none
    /// within another node. Of other nodes' new connections only those that were under way to this node fail.
    #[track_caller]
    pub(crate) fn only_a_node_lost_something(&self, lost: &str) {
        for ((node, container), tally) in &self.of {
            assert!(tally.cut <= kept(container), "{node} {container}: {}", self.told());
            if node != lost && *container == "near" {
                assert_eq!((tally.failed, tally.cut), (0, 0), "{node} {container}: {}", self.told());
            }
        }
        for Loss { node, line, .. } in self.losses.iter().filter(|loss| loss.node != lost) {
            let was_under_way = line.contains(" CUT ") || line.contains(" FAILED read: ");
            assert!(was_under_way, "{node}: {line}: {}", self.told());
        }
    }

    /// No request failed that began after this time, in seconds of Unix time.
    #[track_caller]
    pub(crate) fn nothing_failed_that_began_after(&self, time: f64) {
        let late = self.losses.iter().find(|loss| loss.began > time);
        assert!(late.is_none(), "after {time}: {}; {}", late.unwrap().line, self.told());
    }

    /// All of it, with some failures.
    pub(crate) fn told(&self) -> String {
        let mut text = format!("{}:\n", self.what);
        for ((node, container), Tally { ok, failed, cut, open }) in &self.of {
            text.push_str(&format!(
                "  {node} {container:<5} {ok:>6} served {failed:>4} failed {cut:>4} cut {open:>4} open\n"
            ));
        }
        for client in self.of.keys() {
            let mine: Vec<&Loss> = self
                .losses
                .iter()
                .filter(|loss| (&loss.node, loss.container) == (&client.0, client.1))
                .collect();
            let (Some(first), Some(last)) = (mine.first(), mine.last()) else { continue };
            text.push_str(&format!(
                "  {} {} within {:.1} s:\n",
                client.0,
                client.1,
                last.began - first.began
            ));
            let middle = SHOWN..mine.len().saturating_sub(SHOWN);
            for (_, loss) in mine.iter().enumerate().filter(|(index, _)| !middle.contains(index)) {
                text.push_str(&format!("    {}\n", loss.line));
            }
        }
        text
    }

    fn row(&self) -> String {
        let [load, hold, near] = CLIENTS.map(|(name, _)| self.sum(name, None));
        let all = load.ok + hold.ok + near.ok + load.failed + hold.failed + near.failed;
        format!(
            "| {} | {all} | {}; {}; {} | {} of {}; {} of {} |",
            self.what, load.failed, hold.failed, near.failed, hold.cut, hold.open, near.cut, near.open
        )
    }
}
