use prometheus::IntCounter;

use super::*;

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|have| have == line), "{line:?} is not in\n{text}");
}

#[test]
fn a_scrape_holds_the_families_of_the_contract() {
    let metrics = Metrics::new("1.30.3").unwrap();
    let _socket = metrics.socket(Reporter::Source);
    drop(metrics.socket(Reporter::Destination));
    metrics.xds.terminated(Termination::Reconnect);
    metrics.xds.message("type.googleapis.com/istio.workload.Address", 1000);
    metrics.pods.proxies(3, 1);
    metrics.pods.started();
    metrics.actors.restarted("xds");
    metrics.on_demand_dns(&Endpoint { workload: Some("w"), ..Endpoint::default() }, "db.example.com");
    let text = metrics.encode();
    for line in [
        "# TYPE istio_build gauge",
        "istio_build{component=\"ztunnel\",tag=\"1.30.3\"} 1",
        "istio_tcp_sockets_open{reporter=\"source\"} 1",
        "istio_tcp_sockets_open{reporter=\"destination\"} 0",
        "# TYPE istio_xds_connection_terminations counter",
        "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 1",
        "istio_xds_message_total{url=\"type.googleapis.com/istio.workload.Address\"} 1",
        "# UNIT istio_xds_message_bytes bytes",
        "istio_xds_message_bytes_total{url=\"type.googleapis.com/istio.workload.Address\"} 1000",
        "workload_manager_active_proxy_count 3",
        "workload_manager_pending_proxy_count 1",
        "workload_manager_proxies_started_total 1",
        "workload_manager_proxies_stopped_total 0",
        "warren_actor_restarts_total{kind=\"xds\"} 1",
        "istio_on_demand_dns_total{source_workload=\"w\",source_canonical_service=\"unknown\",\
         source_canonical_revision=\"unknown\",source_workload_namespace=\"unknown\",source_principal=\"unknown\",\
         source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",hostname=\"db.example.com\"} 1",
    ] {
        has(&text, line);
    }
    assert!(!text.contains("warren_actor_crashes"), "a family without samples is left out");
    assert!(text.lines().any(|line| line.starts_with("process_open_fds ")));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn two_proxies_of_one_process_count_apart() {
    let (a, b) = (Metrics::new("x").unwrap(), Metrics::new("x").unwrap());
    a.pods.started();
    has(&b.encode(), "workload_manager_proxies_started_total 0");
}

#[test]
fn later_parts_add_families_of_their_own() {
    let metrics = Metrics::new("x").unwrap();
    let family = || IntCounter::new("warren_later_total", "Later").unwrap();
    metrics.register(family()).unwrap();
    assert!(metrics.register(family()).is_err(), "the name is taken");
    has(&metrics.encode(), "warren_later_total 0");
}

#[test]
fn what_a_scrape_says_is_what_is_declared() {
    let metrics = Metrics::new("x").unwrap();
    drop(metrics.traffic(&TrafficLabels::unknown(Reporter::Source)));
    metrics.xds.terminated(Termination::Error);
    metrics.on_demand_dns(&Endpoint::default(), "db");
    let text = metrics.encode();
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 15, "{families:?}");
    for family in families {
        let (name, kind) = family.split_once(' ').unwrap();
        let is_it = |known: &&&Declaration| known.name.strip_suffix("_total").unwrap_or(known.name) == name;
        let known = describe().iter().find(is_it).unwrap_or_else(|| panic!("{name} is not declared"));
        assert_eq!(known.kind.as_str(), kind, "{name}");
        let sample =
            text.lines().find(|line| line.strip_prefix(known.name).is_some_and(|rest| rest.starts_with('{')));
        let labels = sample.map_or("", |line| line.split_once('}').unwrap().0);
        for label in labels.split([',', '{']).filter_map(|part| part.split_once('=')).map(|(label, _)| label)
        {
            assert!(known.labels.contains(&label), "{name}: {label}");
        }
        assert!(text.contains(&format!("# HELP {name} {}.\n", known.help)), "{name}");
    }
}
