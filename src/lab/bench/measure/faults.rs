//! How one connection is affected by faults and load beside it.

use std::time::{Duration, Instant};

use super::{
    dump,
    kind::{Effort, Measured},
    size::pause,
    traffic::{LIMIT, checked, micros},
};
use crate::lab::{
    apps::{
        Route,
        echo::{self, Report},
        requests, throughput,
    },
    bench::{
        bench_mesh::{BenchMesh, SOON},
        error::BenchError,
    },
    control::{ControlPlane, mesh_file::Mesh},
};

/// The time from one echo to the next.
const PACE: Duration = Duration::from_millis(1);
/// The number of streams whose reader has stopped.
const STOPPED: usize = 20;
/// The number of clients that open connections beside the echo.
const FLOOD: usize = 64;
/// The number of updates per second.
const UPDATES: u32 = 1000;
const MEBIBYTE: f64 = 1_048_576.0;

/// Measures an echo while the neighbouring pod opens connections.
pub(super) fn neighbour(bench_mesh: &BenchMesh, time: Duration) -> Result<Measured, BenchError> {
    let quiet = paced(&bench_mesh.echo()?, time)?.wait()?;
    // The load begins before the echo and ends after it.
    let plan = requests::Plan { clients: FLOOD, keep_alive: false, time: 2 * time + LIMIT, limit: LIMIT };
    let flood = requests::start(&bench_mesh.neighbour()?, plan)?;
    pause(time / 10);
    let echoes = paced(&bench_mesh.echo()?, time)?.wait()?;
    let flood = checked(flood.finish()?)?;
    let (quiet, echoes) = (whole(quiet)?, whole(echoes)?);
    Ok(vec![
        ("neighbour_quiet", micros(quiet.latencies.percentile(50.0))),
        ("neighbour_quiet_p99", micros(quiet.latencies.percentile(99.0))),
        ("neighbour_p50", micros(echoes.latencies.percentile(50.0))),
        ("neighbour_p99", micros(echoes.latencies.percentile(99.0))),
        ("neighbour_cps", flood.rate()),
    ])
}

/// Measures an echo beside streams that nobody reads.
pub(super) fn stalled(bench_mesh: &BenchMesh, time: Duration) -> Result<Measured, BenchError> {
    let quiet = whole(paced(&bench_mesh.echo()?, time)?.wait()?)?;
    let before = bench_mesh.usage()?;
    let stopped = throughput::stall(&bench_mesh.throughput()?, STOPPED, 2 * time + LIMIT)?;
    // The pause lasts until the stalled streams move no more bytes.
    pause(time / 2);
    let echoes = paced(&bench_mesh.echo()?, time)?.wait()?;
    let after = bench_mesh.usage()?;
    let open = stopped.finish()?;
    let lost = (echoes.sent - echoes.answered) + echoes.broken + (STOPPED - open) as u64;
    let mut found = vec![
        ("stalled_quiet", micros(quiet.latencies.percentile(99.0))),
        ("stalled_p99", micros(echoes.latencies.percentile(99.0))),
        ("stalled_lost", lost as f64),
    ];
    let more = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.resident_bytes.saturating_sub(before.resident_bytes) as f64 / MEBIBYTE);
    found.extend(["stalled_src", "stalled_dst"].into_iter().zip(more));
    Ok(found)
}

/// Measures the slowest of many echoes in four situations: a quiet mesh, a push of many workloads, a dump of them, and a
/// stream of single changes.
pub(super) fn stall(bench_mesh: &mut BenchMesh, effort: &Effort) -> Result<Measured, BenchError> {
    let (route, time, control) =
        (bench_mesh.echo()?, effort.time, bench_mesh.testbed.services().control()?.clone());
    let quiet = whole(paced(&route, time)?.wait()?)?;
    let is_mesh = !bench_mesh.usage()?.is_empty();
    let mut echoes = paced(&route, 4 * SOON)?;
    echoes.wait_until_open();
    control.set_bulk(effort.workloads);
    if is_mesh {
        bench_mesh.testbed.services().settle(2 * SOON)?;
    }
    // Work that a push leaves behind belongs to the measurement of the push.
    pause(time.min(Duration::from_secs(1)));
    let push = whole(echoes.finish()?)?;
    let dumped = if is_mesh { beside_dump(bench_mesh, &route)? } else { Measured::new() };
    control.set_bulk(0);
    if is_mesh {
        bench_mesh.testbed.services().settle(2 * SOON)?;
    }
    pause(time.min(Duration::from_secs(1)));
    let acknowledged = || control.seen().borrow().acks;
    let (before, begun) = (acknowledged(), Instant::now());
    let mut echoes = paced(&route, 4 * SOON)?;
    echoes.wait_until_open();
    // The clone ends the borrow at once, because a change of the mesh waits for the borrow.
    let mesh = Mesh::clone(&control.mesh().borrow());
    update(&control, mesh, time);
    let updates = whole(echoes.finish()?)?;
    let proxies = bench_mesh.usage()?.len().max(1) as f64;
    let rate = (acknowledged() - before) as f64 / proxies / begun.elapsed().as_secs_f64();
    let mut found = vec![
        ("stall_quiet", slowest(&quiet)),
        ("stall_push", slowest(&push)),
        ("stall_updates", slowest(&updates)),
    ];
    found.extend(dumped);
    if is_mesh {
        found.push(("updates", rate));
    }
    Ok(found)
}

/// Measures the slowest echo while the client's proxy dumps all that it knows, and the dump.
fn beside_dump(bench_mesh: &BenchMesh, route: &Route) -> Result<Measured, BenchError> {
    let mut echoes = paced(route, 4 * SOON)?;
    echoes.wait_until_open();
    let dump = dump::read(bench_mesh)?;
    let echoes = whole(echoes.finish()?)?;
    Ok(vec![
        ("stall_dump", slowest(&echoes)),
        ("dump_time", dump.took.as_secs_f64()),
        ("dump_size", dump.bytes as f64 / MEBIBYTE),
        ("dump_added", dump.added as f64 / MEBIBYTE),
    ])
}

/// The slowest echo in milliseconds.
fn slowest(report: &Report) -> f64 {
    report.latencies.slowest().as_secs_f64() * 1e3
}

/// Changes a workload that nobody calls, [`UPDATES`] times a second.
fn update(control: &ControlPlane, mut mesh: Mesh, time: Duration) {
    let begun = Instant::now();
    for number in 1_u32.. {
        if let Some(pod) = mesh.pods.last_mut() {
            pod.version = number.to_string();
        }
        control.update(mesh.clone());
        let next = number * Duration::from_secs(1) / UPDATES;
        if next >= time {
            return;
        }
        pause(next.saturating_sub(begun.elapsed()));
    }
}

fn paced(route: &Route, time: Duration) -> Result<echo::Pacing, BenchError> {
    let plan = echo::Plan { connections: 1, interval: PACE, time, limit: LIMIT };
    Ok(echo::pace(route, plan)?)
}

/// Returns the report if no message was lost.
fn whole(report: Report) -> Result<Report, BenchError> {
    if report.is_clean() && report.sent > 0 {
        return Ok(report);
    }
    Err(BenchError::Failed {
        failures: report.sent - report.answered + report.broken,
        of: report.sent,
        first: report.first_problem.unwrap_or_else(|| "an echo without an answer".to_owned()),
    })
}
