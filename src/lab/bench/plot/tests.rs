use super::*;

#[test]
fn bars_are_parts_of_what_goes_without_a_proxy() {
    let contestants = ["none", "warren"].map(|name| Contestant::find(name).unwrap());
    let mut results = Results::default();
    assert_eq!(svg(&results, &contestants, ""), None);
    for (name, tp1, cps) in [("none", 10.0, 10_000.0), ("warren", 5.0, 2500.0)] {
        results.add(name, vec![("tp1", tp1), ("cps", cps)]);
    }
    results.add("warren", vec![("rps_cpu_src", 0.5), ("rps_cpu_dst", 0.25), ("tp1_cpu", 1.5)]);
    let drawing = svg(&results, &contestants, "a < b").unwrap();
    assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
    for shown in [">5.00 Gbit/s · 0.50<", ">2500 /s · 0.25<", ">no proxy: 10000 /s<", ">0.750 s<", "a &lt; b"]
    {
        assert!(drawing.contains(shown), "{shown} is not in\n{drawing}");
    }
    // The drawing has the longest bar of the common scale, half of that bar, and the longest bar of each cost.
    let widths = ["410.0", "205.0"].map(|width| drawing.matches(&format!("width=\"{width}\"")).count());
    assert_eq!(widths, [3, 1], "{drawing}");
    assert!(!drawing.contains("8 streams") && !drawing.contains("10,000 connections"));
}
