//! Whether one busy pod of several has all processors, or only the one that its connections happened to come to.

use std::time::Duration;

use super::{kind::Measured, traffic::LIMIT};
use crate::lab::{
    apps::{bulk::Direction, throughput},
    bench::{bench_mesh::BenchMesh, error::BenchError},
};

/// Streams at a time, and the keys of what they carry and of the busiest shard's part.
const LOADS: [(usize, &str, &str); 4] = [
    (1, "hot_1", "hot_1_top"),
    (2, "hot_2", "hot_2_top"),
    (8, "hot_8", "hot_8_top"),
    (64, "hot_64", "hot_64_top"),
];
/// What the threads are called that carry bytes.
const SHARDS: &str = "shard-";

/// Streams of one pod, while the others have nothing to do.
pub(super) fn hot(bench_mesh: &BenchMesh, time: Duration) -> Result<Measured, BenchError> {
    let route = bench_mesh.throughput()?;
    let mut found = Measured::new();
    for (streams, speed, top) in LOADS {
        let plan = throughput::Plan { direction: Direction::Up, streams, time, limit: LIMIT };
        let before = bench_mesh.threads(SHARDS)?;
        let moved = throughput::run(&route, plan)?;
        let after = bench_mesh.threads(SHARDS)?;
        found.push((speed, moved.gigabits()));
        // Of the two proxies, the one whose shards share the work less.
        let parts = before.iter().zip(&after).filter_map(|(before, after)| busiest(before, after));
        found.extend(parts.reduce(f64::max).map(|part| (top, part * 100.0)));
    }
    Ok(found)
}

/// The part that the busiest of a proxy's shards had in the work of all; none if there was none.
fn busiest(before: &[Duration], after: &[Duration]) -> Option<f64> {
    let spent = |(before, after): (&Duration, &Duration)| after.saturating_sub(*before).as_secs_f64();
    let spent: Vec<f64> = before.iter().zip(after).map(spent).collect();
    let all: f64 = spent.iter().sum();
    spent.into_iter().reduce(f64::max).filter(|_| all > 0.0).map(|most| most / all)
}

#[cfg(test)]
mod tests;
