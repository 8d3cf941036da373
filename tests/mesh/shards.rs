//! Connections of one pod, and the shards they are on.

use std::net::TcpStream;

use crate::{
    metrics::{all_closed, metrics, metrics_show},
    support::*,
};

/// Connections made at once.
const CONNECTIONS: usize = 64;
/// Each of the two shards has at least so many of them, whichever accepts most.
const AT_LEAST: f64 = 8.0;

pub(crate) fn connections_of_one_pod_are_shared_out_and_all_of_them_are_served() {
    let lab = raise_with(MESH, &[("ZTUNNEL_WORKER_THREADS", "2")], Default::default());
    let mut held: Vec<TcpStream> = Vec::new();
    for to in [SERVER, NEAR] {
        held.extend((0..CONNECTIONS).map(|_| dial(&lab, "client", to).unwrap()));
        for (number, stream) in held.iter_mut().enumerate() {
            echo(stream, format!("{number} to {to}").as_bytes()).unwrap();
        }
        let now = metrics(&lab, "one");
        let on = |shard| now.sum("warren_shard_connections", &[("shard", shard)]);
        assert_eq!(on("0") + on("1"), CONNECTIONS as f64, "{now:?}");
        assert!(on("0").min(on("1")) >= AT_LEAST, "{} and {} connections to {to}", on("0"), on("1"));
        held.clear();
        all_closed(&lab, "one");
        metrics_show(&lab, "one", "end on both shards", |now| {
            now.sum("warren_shard_connections", &[]) == 0.0
        });
    }
    let now = metrics(&lab, "one");
    let every_shard = |name| now.find(name, &[]).filter(|sample| sample.value > 0.0).count();
    assert_eq!(every_shard("warren_shard_taken_total"), 2);
    assert_eq!(every_shard("warren_shard_cpu_seconds_total"), 2);
}
