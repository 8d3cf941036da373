use super::*;
use crate::lab::bench::figures::figure;

fn results(all: &[(&str, &'static str, &[f64])]) -> Results {
    let mut results = Results::default();
    for (name, key, values) in all {
        for value in *values {
            results.add(name, vec![(key, *value)]);
        }
    }
    results
}

#[test]
fn a_figure_is_the_median_with_its_spread() {
    let results = results(&[("warren", "tp1", &[4.0, 2.0, 3.0]), ("none", "tp1", &[1.0, 3.0])]);
    let of_three = results.summary("warren", "tp1").unwrap();
    assert_eq!((of_three.median, of_three.spread.round()), (3.0, 67.0));
    assert_eq!(results.summary("none", "tp1"), Some(Summary { median: 2.0, spread: 100.0 }));
    assert_eq!(results.summary("envoy", "tp1"), None);
}

#[test]
fn goals_hold_a_figure_against_the_best_of_others_or_its_own() {
    let results = results(&[
        ("warren", "tp1", &[2.2]),
        ("haproxy", "tp1", &[2.0]),
        ("envoy", "tp1", &[1.0]),
        ("warren", "lat1_p50", &[90.0]),
        ("envoy", "lat1_p50", &[80.0]),
        ("warren", "cps", &[10.0]),
        ("none", "cps", &[20.0]),
        ("warren", "stall_quiet", &[1.0]),
        ("warren", "stall_push", &[3.5]),
        ("warren", "rss", &[12.0]),
    ]);
    let verdicts = |key| -> Vec<(f64, bool)> {
        let verdicts = results.verdicts("warren", figure(key).unwrap());
        verdicts.into_iter().map(|one| ((one.reached * 1e6).round() / 1e6, one.met)).collect()
    };
    assert_eq!(verdicts("tp1"), [(1.1, true)]);
    assert_eq!(verdicts("lat1_p50"), [(1.125, false)]);
    // Envoy's connections were not measured.
    assert_eq!(verdicts("cps"), [(0.5, true)]);
    assert_eq!(verdicts("stall_push"), [(2.5, false)]);
    assert_eq!(verdicts("rss"), [(12.0, true)]);
    assert_eq!(verdicts("idle_src"), []);
}
