use super::*;

#[test]
fn label_sets_of_the_histogram_are_bounded_and_forgotten() {
    let names = DnsMetrics::new();
    let took = |kind: &str| {
        let labels = DnsQueryLabels { kind, transport: Transport::Udp, service: "", revision: "v1" };
        names.took(&labels, Duration::from_millis(20));
    };
    let sets = || names.took.len();
    for number in 0..DNS_SERIES + 5 {
        took(&format!("type{number}"));
    }
    assert_eq!(sets(), DNS_SERIES + 1, "the last ones are counted together");
    let (now, hour) = (Instant::now(), Duration::from_secs(3600));
    names.sweep(now, hour);
    assert_eq!(sets(), DNS_SERIES + 1);
    names.sweep(now + hour * 2, hour);
    assert_eq!(sets(), 0);
    took("a");
    assert_eq!(sets(), 1);
}
