//! Memory: of a proxy that does nothing, of connections that do nothing, of a large mesh.

use std::time::Duration;

use super::kind::Measured;
use crate::lab::{
    apps::requests,
    bench::{
        bench_mesh::{BenchMesh, SOON},
        error::BenchError,
    },
    process::Usage,
};

const KIBIBYTE: f64 = 1024.0;
const MEBIBYTE: f64 = 1_048_576.0;
/// How long a proxy may go on with what it has begun before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// Of a proxy that has just started.
pub(super) fn start(bench_mesh: &BenchMesh) -> Result<Measured, BenchError> {
    let usage = first(&bench_mesh.usage()?)?;
    let resident = usage.resident_bytes as f64 / MEBIBYTE;
    Ok(vec![("start", bench_mesh.started.as_secs_f64() * 1e3), ("rss", resident)])
}

/// Of connections that have had an answer and are kept.
pub(super) fn idle(bench_mesh: &BenchMesh, count: usize) -> Result<Measured, BenchError> {
    let route = bench_mesh.requests()?;
    // The code that a connection runs comes into memory with the first one, and is no connection's.
    requests::hold(&route, 1, SOON, SOON)?.finish()?;
    let before = bench_mesh.usage()?;
    let held = requests::hold(&route, count, 3 * SOON, SOON)?;
    pause(SETTLE);
    let after = bench_mesh.usage()?;
    held.finish()?;
    let each = |(key, (before, after)): (&'static str, (&Usage, &Usage))| {
        let more = after.resident_bytes.saturating_sub(before.resident_bytes) as f64;
        (key, more / KIBIBYTE / count as f64)
    };
    Ok(["idle_src", "idle_dst"].into_iter().zip(before.iter().zip(&after)).map(each).collect())
}

/// Of a proxy that has taken in a large mesh.
pub(super) fn bulk(bench_mesh: &BenchMesh) -> Result<Measured, BenchError> {
    pause(3 * SETTLE);
    let usage = first(&bench_mesh.usage()?)?;
    let mut found = vec![
        ("bulk_rss", usage.resident_bytes as f64 / MEBIBYTE),
        ("bulk_peak", usage.peak_bytes as f64 / MEBIBYTE),
        ("bulk_cpu", usage.cpu.as_secs_f64()),
    ];
    found.extend(bench_mesh.ready_after_last_byte.map(|time| ("bulk_ready", time.as_secs_f64())));
    Ok(found)
}

fn first(usage: &[Usage]) -> Result<Usage, BenchError> {
    usage.first().copied().ok_or(BenchError::Layout)
}

/// Waits; nothing here shares the thread.
pub(super) fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
}
