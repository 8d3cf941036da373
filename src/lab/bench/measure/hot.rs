//! Measures whether one busy pod of several can use all processors, or only the processor that serves its
//! connections.

use std::time::Duration;

use super::{kind::Measured, traffic::LIMIT};
use crate::lab::{
    apps::{bulk::Direction, throughput},
    bench::{bench_mesh::BenchMesh, error::BenchError},
};

/// The number of streams of each load, the key of their throughput, and the key of the busiest shard's part.
const LOADS: [(usize, &str, &str); 4] = [
    (1, "hot_1", "hot_1_top"),
    (2, "hot_2", "hot_2_top"),
    (8, "hot_8", "hot_8_top"),
    (64, "hot_64", "hot_64_top"),
];
/// The name prefix of the threads that carry bytes.
const SHARDS: &str = "shard-";

/// Measures streams of one pod while the other pods are idle.
pub(super) fn hot(bench_mesh: &BenchMesh, time: Duration) -> Result<Measured, BenchError> {
    let route = bench_mesh.throughput()?;
    let mut found = Measured::new();
    for (streams, speed, top) in LOADS {
        let plan = throughput::Plan { direction: Direction::Up, streams, time, limit: LIMIT };
        let before = bench_mesh.threads(SHARDS)?;
        let moved = throughput::run(&route, plan)?;
        let after = bench_mesh.threads(SHARDS)?;
        found.push((speed, moved.gigabits()));
        // The figure is that of the proxy whose shards share the work less evenly.
        let parts = before.iter().zip(&after).filter_map(|(before, after)| busiest(before, after));
        found.extend(parts.reduce(f64::max).map(|part| (top, part * 100.0)));
    }
    Ok(found)
}

/// The part of a proxy's work that its busiest shard did; none if the shards did no work.
fn busiest(before: &[Duration], after: &[Duration]) -> Option<f64> {
    let spent = |(before, after): (&Duration, &Duration)| after.saturating_sub(*before).as_secs_f64();
    let spent: Vec<f64> = before.iter().zip(after).map(spent).collect();
    let all: f64 = spent.iter().sum();
    spent.into_iter().reduce(f64::max).filter(|_| all > 0.0).map(|most| most / all)
}

#[cfg(test)]
mod tests;
