//! Measures throughput, latency and processor time.

use std::time::Duration;

use super::kind::{Measure, Measured};
use crate::lab::{
    apps::{
        bulk::Direction,
        requests::{self, Report},
        throughput,
    },
    bench::{bench_mesh::BenchMesh, error::BenchError},
    process::Usage,
};

/// How long the last answers and bytes may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// The number of clients that each keep one connection.
const KEEPERS: usize = 64;
/// The number of clients that open a connection for each request.
pub(super) const OPENERS: usize = 32;

const GIGABYTE: f64 = 1e9;
const MEBIBYTE: f64 = 1_048_576.0;

/// Measures the throughput of one or more streams.
pub(super) fn throughput(
    measure: Measure,
    bench_mesh: &BenchMesh,
    time: Duration,
) -> Result<Measured, BenchError> {
    let (keys, direction, streams) = match measure {
        Measure::Tp1r => (["tp1r", "tp1r_cpu"], Direction::Down, 1),
        Measure::Tp8 => (["tp8", "tp8_cpu"], Direction::Up, 8),
        _ => (["tp1", "tp1_cpu"], Direction::Up, 1),
    };
    let plan = throughput::Plan { direction, streams, time, limit: LIMIT };
    let before = bench_mesh.usage()?;
    let moved = throughput::run(&bench_mesh.throughput()?, plan)?;
    let (used, after) = (seconds(&before, &bench_mesh.usage()?), bench_mesh.usage()?);
    let [speed, processor] = keys;
    let mut found = vec![(speed, moved.gigabits())];
    if let Some(all) = total(&used) {
        found.push((processor, all * GIGABYTE / (moved.bytes as f64).max(1.0)));
    }
    if measure == Measure::Tp8 {
        let peak = after.iter().map(|usage| usage.peak_bytes as f64 / MEBIBYTE).reduce(f64::max);
        found.extend(peak.map(|peak| ("tp8_peak", peak)));
    }
    Ok(found)
}

/// Measures requests on one connection or many, kept or new.
pub(super) fn requests(
    measure: Measure,
    bench_mesh: &BenchMesh,
    time: Duration,
) -> Result<Measured, BenchError> {
    let clients = match measure {
        Measure::Lat1 => 1,
        Measure::Cps => OPENERS,
        _ => KEEPERS,
    };
    let before = bench_mesh.usage()?;
    let report = ask(bench_mesh, clients, measure != Measure::Cps, time)?;
    let used = seconds(&before, &bench_mesh.usage()?);
    let each = |many: f64| many / (report.latencies.count() as f64).max(1.0);
    let percentile = |percent| micros(report.latencies.percentile(percent));
    Ok(match measure {
        Measure::Lat1 => vec![("lat1_p50", percentile(50.0)), ("lat1_p99", percentile(99.0))],
        Measure::Cps => {
            let mut found = vec![("cps", report.rate()), ("cps_p99", percentile(99.0))];
            found.extend(total(&used).map(|all| ("cps_cpu", all * each(1e4))));
            found
        }
        _ => {
            let mut found =
                vec![("rps", report.rate()), ("rps_p50", percentile(50.0)), ("rps_p99", percentile(99.0))];
            let sides = ["rps_cpu_src", "rps_cpu_dst"].into_iter().zip(used);
            found.extend(sides.map(|(key, used)| (key, used * each(1e5))));
            found
        }
    })
}

/// Measures the same traffic between pods of one node.
pub(super) fn local(bench_mesh: &BenchMesh, time: Duration) -> Result<Measured, BenchError> {
    let plan = throughput::Plan { direction: Direction::Up, streams: 1, time, limit: LIMIT };
    let moved = throughput::run(&bench_mesh.throughput()?, plan)?;
    let kept = ask(bench_mesh, KEEPERS, true, time)?;
    let new = ask(bench_mesh, OPENERS, false, time)?;
    Ok(vec![("local_tp1", moved.gigabits()), ("local_rps", kept.rate()), ("local_cps", new.rate())])
}

fn ask(
    bench_mesh: &BenchMesh,
    clients: usize,
    keep_alive: bool,
    time: Duration,
) -> Result<Report, BenchError> {
    let plan = requests::Plan { clients, keep_alive, time, limit: LIMIT };
    checked(requests::run(&bench_mesh.requests()?, plan)?)
}

/// Returns the report if no request failed.
pub(super) fn checked(report: Report) -> Result<Report, BenchError> {
    match &report.first_failure {
        None => Ok(report),
        Some(first) => Err(BenchError::Failed {
            failures: report.failures,
            of: report.failures + report.latencies.count(),
            first: first.clone(),
        }),
    }
}

/// The processor seconds of each proxy.
fn seconds(before: &[Usage], after: &[Usage]) -> Vec<f64> {
    let spent = |(before, after): (&Usage, &Usage)| after.cpu.saturating_sub(before.cpu).as_secs_f64();
    before.iter().zip(after).map(spent).collect()
}

/// The sum over all proxies; none without a proxy.
fn total(used: &[f64]) -> Option<f64> {
    used.iter().copied().reduce(|all, one| all + one)
}

/// The time in microseconds.
pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
