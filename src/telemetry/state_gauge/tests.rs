use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::telemetry::metrics::Metrics;

#[test]
fn what_is_counted_has_samples_from_the_beginning_and_never_old_ones() {
    let (metrics, full) = (Metrics::new("x").unwrap(), Arc::new(AtomicU64::new(0)));
    let now = full.clone();
    let count = move || vec![("empty", 0), ("full", now.load(Ordering::Relaxed))];
    metrics.register(of_pods(count).unwrap()).unwrap();
    for number in [0, 3, 1] {
        full.store(number, Ordering::Relaxed);
        let text = metrics.encode();
        assert!(text.contains("\nwarren_pods{state=\"empty\"} 0\n"), "{text}");
        assert!(text.contains(&format!("\nwarren_pods{{state=\"full\"}} {number}\n")), "{text}");
    }
}
