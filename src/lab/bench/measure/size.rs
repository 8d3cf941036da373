//! Measures the memory of an idle proxy, of idle connections, and of a large mesh.

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
/// How long a proxy may finish its work before its memory is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures the memory of a proxy that has just started.
pub(super) fn start(bench_mesh: &BenchMesh) -> Result<Measured, BenchError> {
    let usage = first(&bench_mesh.usage()?)?;
    let resident = usage.resident_bytes as f64 / MEBIBYTE;
    Ok(vec![("start", bench_mesh.started.as_secs_f64() * 1e3), ("rss", resident)])
}

/// Measures the memory of connections that have had an answer and stay open.
pub(super) fn idle(bench_mesh: &BenchMesh, count: usize) -> Result<Measured, BenchError> {
    let route = bench_mesh.requests()?;
    // The first connection loads the code that connections run; that memory belongs to no single connection.
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

/// Measures the memory of a proxy that has received a large mesh.
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

/// The resources of the client's proxy.
pub(super) fn first(usage: &[Usage]) -> Result<Usage, BenchError> {
    usage.first().copied().ok_or(BenchError::Layout)
}

/// Blocks the thread; nothing else runs on it.
pub(super) fn pause(time: Duration) {
    let end = std::time::Instant::now() + time;
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
}
