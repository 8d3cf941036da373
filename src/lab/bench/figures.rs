//! The figures of the bench, their units, and their goals.

/// Whether a higher or a lower value of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// The goal of a node proxy's figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// At least this many times the best value of these contestants; at most, for a figure of which less is better.
    Times(f64, &'static [&'static str]),
    /// At most this value.
    AtMost(f64),
    /// At most this many times the proxy's own figure of that key.
    TimesOwn(f64, &'static str),
    /// At most this much more than the proxy's own figure of that key.
    MoreThanOwn(f64, &'static str),
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) goals: &'static [Goal],
}

const fn more(key: &'static str, name: &'static str, unit: &'static str, goals: &'static [Goal]) -> Figure {
    Figure { key, name, unit, better: Better::More, goals }
}

const fn less(key: &'static str, name: &'static str, unit: &'static str, goals: &'static [Goal]) -> Figure {
    Figure { key, name, unit, better: Better::Less, goals }
}

const NONE: &[&str] = &["none"];
const ENVOY: &[&str] = &["envoy"];
const PAIRS: &[&str] = &["haproxy", "envoy"];

/// All figures, in the order of the table.
pub(super) const FIGURES: [Figure; 54] = [
    more("tp1", "1 stream from the client", "Gbit/s", &[Goal::Times(1.1, PAIRS)]),
    more("tp1r", "1 stream to the client", "Gbit/s", &[Goal::Times(1.1, PAIRS)]),
    more("tp8", "8 streams", "Gbit/s", &[Goal::Times(1.15, PAIRS)]),
    more("rps", "requests, 64 connections", "1/s", &[Goal::Times(1.3, ENVOY)]),
    less("rps_p50", "  their median", "us", &[]),
    less("rps_p99", "  their 99th percentile", "us", &[Goal::Times(1.0, ENVOY)]),
    more("cps", "new connections, 32 clients", "1/s", &[Goal::Times(0.5, NONE), Goal::Times(1.6, ENVOY)]),
    less("cps_p99", "  their 99th percentile", "us", &[]),
    less("lat1_p50", "1 connection, median", "us", &[Goal::Times(1.0, PAIRS)]),
    less("lat1_p99", "  99th percentile", "us", &[]),
    less("tp1_cpu", "processor: GB, 1 stream", "s", &[Goal::AtMost(1.15)]),
    less("tp1r_cpu", "processor: GB, 1 stream back", "s", &[Goal::AtMost(1.15)]),
    less("tp8_cpu", "processor: GB, 8 streams", "s", &[Goal::AtMost(1.15)]),
    less("rps_cpu_src", "processor: 100k requests, client", "s", &[Goal::AtMost(0.65)]),
    less("rps_cpu_dst", "processor: 100k requests, server", "s", &[Goal::AtMost(0.65)]),
    less("cps_cpu", "processor: 10k connections", "s", &[Goal::AtMost(0.8)]),
    less("idle_src", "idle connection, client's side", "KiB", &[Goal::AtMost(2.5)]),
    less("idle_dst", "idle connection, server's side", "KiB", &[Goal::AtMost(2.5)]),
    less("start", "start to all pods acknowledged", "ms", &[Goal::AtMost(30.0)]),
    less("rss", "resident, one pod", "MiB", &[Goal::AtMost(12.0)]),
    less("bulk_rss", "resident, 100k workloads", "MiB", &[Goal::AtMost(60.0)]),
    less("bulk_peak", "  the highest", "MiB", &[Goal::TimesOwn(1.3, "bulk_rss")]),
    less("bulk_ready", "  ready after the last byte", "s", &[Goal::AtMost(1.0)]),
    less("bulk_cpu", "  processor", "s", &[]),
    less("stall_quiet", "slowest paced echo, quiet", "ms", &[]),
    less("stall_push", "  100k workloads pushed", "ms", &[Goal::MoreThanOwn(2.0, "stall_quiet")]),
    less("stall_dump", "  100k workloads dumped", "ms", &[Goal::MoreThanOwn(2.0, "stall_quiet")]),
    less("dump_time", "  the dump", "s", &[]),
    less("dump_size", "  its size", "MiB", &[]),
    less("dump_added", "  memory added by it", "MiB", &[Goal::AtMost(16.0)]),
    less("stall_updates", "  1000 updates/s", "ms", &[Goal::MoreThanOwn(2.0, "stall_quiet")]),
    more("updates", "  updates acknowledged", "1/s", &[]),
    more("hot_1", "busy pod: 1 stream", "Gbit/s", &[]),
    less("hot_1_top", "  busiest shard, of all shards", "%", &[]),
    more("hot_2", "busy pod: 2 streams", "Gbit/s", &[]),
    less("hot_2_top", "  busiest shard, of all shards", "%", &[]),
    more("hot_8", "busy pod: 8 streams", "Gbit/s", &[]),
    less("hot_8_top", "  busiest shard, of all shards", "%", &[]),
    more("hot_64", "busy pod: 64 streams", "Gbit/s", &[]),
    less("hot_64_top", "  busiest shard, of all shards", "%", &[]),
    more("local_tp1", "one node: 1 stream", "Gbit/s", &[Goal::Times(0.6, NONE)]),
    more("local_rps", "one node: requests", "1/s", &[Goal::Times(0.5, NONE)]),
    more("local_cps", "one node: new connections", "1/s", &[Goal::Times(0.6, NONE)]),
    less("stalled_quiet", "echo, 99th percentile, quiet", "us", &[]),
    less("stalled_p99", "  beside 20 stopped readers", "us", &[Goal::TimesOwn(1.2, "stalled_quiet")]),
    less("stalled_lost", "  lost", "", &[Goal::AtMost(0.0)]),
    less("stalled_src", "  more resident, client's side", "MiB", &[]),
    less("stalled_dst", "  more resident, server's side", "MiB", &[]),
    less("neighbour_quiet", "echo, median, quiet", "us", &[]),
    less("neighbour_p50", "  neighbour opens connections", "us", &[Goal::Times(30.0, NONE)]),
    less("neighbour_quiet_p99", "echo, 99th percentile, quiet", "us", &[]),
    less("neighbour_p99", "  neighbour opens connections", "us", &[Goal::Times(1.5, NONE)]),
    more("neighbour_cps", "  its connections", "1/s", &[]),
    less("tp8_peak", "resident at most, 8 streams", "MiB", &[]),
];

/// The figure of that key.
#[cfg(test)]
pub(super) fn figure(key: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.key == key)
}

impl Goal {
    /// The goal in words, for a figure of which more or less is better.
    pub(super) fn words(self, better: Better) -> String {
        match self {
            Self::Times(1.0, than) => format!("no worse than {}", than.join(", ")),
            Self::Times(times, than) => {
                let bound = if better == Better::More { "at least" } else { "at most" };
                format!("{bound} {times} x {}", than.join(", "))
            }
            Self::AtMost(most) => format!("at most {most}"),
            Self::TimesOwn(times, _) => format!("at most {times} x quiet").replace("quiet", self.own()),
            Self::MoreThanOwn(more, _) => format!("at most {more} more than {}", self.own()),
        }
    }

    fn own(self) -> &'static str {
        match self {
            Self::TimesOwn(_, key) | Self::MoreThanOwn(_, key) if key.ends_with("quiet") => "quiet",
            _ => "resident",
        }
    }
}

#[cfg(test)]
mod tests;
