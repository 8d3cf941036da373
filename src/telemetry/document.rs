//! Makes docs/metrics.md from a scrape in which every family has a sample.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use super::{
    dns::{Asked, Transport},
    load::ActorLoads,
    metrics::{Metrics, Termination},
    otlp::queue::Counts,
    shards::ShardLoads,
    state_gauge::StateGauge,
};
use crate::{
    protocols::{
        labels::{Endpoint, Reporter, TrafficLabels},
        outcome::ResponseFlag,
    },
    runtime::shard::Shards,
    supervisor::{Strategy, SupervisorSpec, Tree},
};

const HEAD: &str = "\
# Metrics

Every family of a scrape of `:15020/metrics`. The names and labels of `istio_build` and of the opened, closed, sent and
received families are stable; all others may change. A family without a sample is left out of a scrape. The file is made
from a scrape; `WARREN_BLESS=1 cargo test document` writes it anew. [operations.md](operations.md) says what to look
at.

| Family | Type | Labels | What |
|---|---|---|---|
";

/// A family as a scrape shows it.
#[derive(Default)]
struct Shown {
    help: String,
    kind: String,
    labels: Vec<String>,
}

#[tokio::test]
async fn the_document_names_every_family_of_a_scrape() {
    let text = document(&scrape().await);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("WARREN_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap();
    assert_eq!(stands, text, "docs/metrics.md is not what a scrape says: set WARREN_BLESS=1 to write it");
}

/// A scrape with a sample of every family.
async fn scrape() -> String {
    let metrics = Metrics::new("1.30.3").unwrap();
    metrics.traffic(&TrafficLabels::unknown(Reporter::Source)).close(ResponseFlag::Deny);
    metrics.on_demand_dns(&Endpoint::default(), "db.example.com");
    metrics.xds.terminated(Termination::Error);
    metrics.xds.message("url", 1);
    metrics.xds.rejected("url", 1);
    let asked = Asked { kind: "a", transport: Transport::Udp, service: "s", revision: "r" };
    metrics.dns.asked(&asked);
    metrics.dns.forwarded(&asked);
    metrics.dns.failed(&asked);
    metrics.dns.took(&asked, Duration::from_millis(1));
    metrics.pods.unhealthy("network", 0);
    metrics.pods.repaired("listener");
    metrics.actors.restarted("xds");
    metrics.actors.crashed("xds");
    metrics.actors.set_aside("pod", 0);
    metrics.actors.task_panicked("task");
    for counts in [Counts::spans(), Counts::records(), Counts::exports()] {
        let counts = counts.unwrap();
        counts.dropped("queue full", 1);
        counts.register(&metrics).unwrap();
    }
    let one = || vec![("up", 1)];
    metrics.register(StateGauge::of_pods(one).unwrap()).unwrap();
    metrics.register(StateGauge::of_certificates(one).unwrap()).unwrap();
    metrics.register(StateGauge::of_quarantined_actors(one).unwrap()).unwrap();
    metrics.register(ShardLoads::new(Shards::new(1)).unwrap()).unwrap();
    let root = SupervisorSpec::new("root", Strategy::OneForOne);
    let tree = Tree::start(root.supervisor(SupervisorSpec::new("child", Strategy::OneForOne))).await.unwrap();
    let seen = Arc::new(OnceLock::new());
    assert!(seen.set(tree.handle()).is_ok());
    metrics.register(ActorLoads::new(seen).unwrap()).unwrap();
    metrics.sweep(Instant::now());
    let text = metrics.encode();
    tree.stop().await;
    text
}

/// The document about a scrape. Long lists of labels stand below the table, once each.
fn document(scrape: &str) -> String {
    let mut text = HEAD.to_owned();
    let mut lists: Vec<Vec<String>> = Vec::new();
    for (name, family) in families(scrape) {
        let labels = match family.labels.len() {
            0..=4 => quoted(&family.labels),
            _ => {
                let known = lists.iter().position(|list| *list == family.labels).unwrap_or_else(|| {
                    lists.push(family.labels.clone());
                    lists.len() - 1
                });
                format!("list {}", known + 1)
            }
        };
        writeln!(text, "| `{name}` | {} | {labels} | {} |", family.kind, family.help).unwrap();
    }
    for (number, list) in lists.iter().enumerate() {
        write!(text, "\nList {} of labels: {}.\n", number + 1, quoted(list)).unwrap();
    }
    text
}

/// The families of a scrape, by the names of their samples.
fn families(scrape: &str) -> BTreeMap<String, Shown> {
    let mut found: BTreeMap<String, Shown> = BTreeMap::new();
    let (mut help, mut family, mut kind) = ("", "", "");
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            (family, help) = rest.split_once(' ').unwrap();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.split_once(' ').unwrap().1;
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).unwrap();
            let name = if kind == "histogram" { family } else { &line[..end] };
            let labels = line[end..].trim_start_matches('{').split("=\"").collect::<Vec<_>>();
            let names = labels[..labels.len() - 1].iter().map(|part| part.rsplit([',', '"']).next().unwrap());
            let shown = found.entry(name.to_owned()).or_default();
            shown.help = help.trim_end_matches('.').to_owned();
            shown.kind = kind.to_owned();
            shown.labels = names.filter(|label| *label != "le").map(str::to_owned).collect();
        }
    }
    found
}

fn quoted(labels: &[String]) -> String {
    labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
}
