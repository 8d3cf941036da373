use super::*;
use crate::{
    protocols::labels::{Endpoint, Reporter, Security, ServiceName},
    telemetry::openmetrics::Exposition,
};

fn labels<'a>() -> TrafficLabels<'a> {
    let end = |workload, namespace| Endpoint {
        workload: Some(workload),
        canonical_service: Some(workload),
        canonical_revision: Some("v1"),
        namespace: Some(namespace),
        principal: None,
        app: Some(workload),
        version: Some("v1"),
        cluster: Some("Kubernetes"),
        region: Some("r1"),
        zone: None,
    };
    TrafficLabels {
        reporter: Reporter::Source,
        source: end("local", "default"),
        destination: end("we\"b", "shop"),
        service: ServiceName { hostname: Some("web.shop.svc"), namespace: Some("shop"), name: Some("web") },
        security: Security::MutualTls,
    }
}

fn text(table: &TrafficTable) -> String {
    let mut body = Exposition::default();
    table.group().encode(&mut body);
    body.finish()
}

const HEAD: &str = "{reporter=\"source\",source_workload=\"local\",source_canonical_service=\"local\",\
    source_canonical_revision=\"v1\",source_workload_namespace=\"default\",source_principal=\"unknown\",\
    source_app=\"local\",source_version=\"v1\",source_cluster=\"Kubernetes\",destination_service=\"web.shop.svc\",\
    destination_service_namespace=\"shop\",destination_service_name=\"web\",destination_workload=\"we\\\"b\",\
    destination_canonical_service=\"we\\\"b\",destination_canonical_revision=\"v1\",\
    destination_workload_namespace=\"shop\",destination_principal=\"unknown\",destination_app=\"we\\\"b\",\
    destination_version=\"v1\",destination_cluster=\"Kubernetes\",request_protocol=\"tcp\",response_flags=\"";
const TAIL: &str = "\",connection_security_policy=\"mutual_tls\",source_region=\"r1\",source_zone=\"unknown\",\
    destination_region=\"r1\",destination_zone=\"unknown\"}";

#[test]
fn a_connection_is_counted_from_open_to_close() {
    let table = TrafficTable::default();
    assert_eq!(text(&table), "# EOF\n");
    let traffic = table.open(&labels());
    traffic.received(78);
    traffic.sent(187);
    traffic.sent(1);
    let open = [
        "# HELP istio_tcp_connections_opened TCP connections opened.".to_owned(),
        "# TYPE istio_tcp_connections_opened counter".to_owned(),
        format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 1"),
        "# HELP istio_tcp_received_bytes Bytes from client to server.".to_owned(),
        "# TYPE istio_tcp_received_bytes counter".to_owned(),
        "# UNIT istio_tcp_received_bytes bytes".to_owned(),
        format!("istio_tcp_received_bytes_total{HEAD}-{TAIL} 78"),
        "# HELP istio_tcp_sent_bytes Bytes from server to client.".to_owned(),
        "# TYPE istio_tcp_sent_bytes counter".to_owned(),
        "# UNIT istio_tcp_sent_bytes bytes".to_owned(),
        format!("istio_tcp_sent_bytes_total{HEAD}-{TAIL} 188"),
        "# EOF\n".to_owned(),
    ];
    assert_eq!(text(&table), open.join("\n"));

    traffic.close(ResponseFlag::Deny);
    drop(table.open(&labels()));
    let closed = text(&table);
    for line in [
        format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 2"),
        "# TYPE istio_tcp_connections_closed counter".to_owned(),
        format!("istio_tcp_connections_closed_total{HEAD}-{TAIL} 1"),
        format!("istio_tcp_connections_closed_total{HEAD}DENY{TAIL} 1"),
        format!("istio_tcp_connections_failed_total{HEAD}DENY{TAIL} 1"),
    ] {
        assert!(closed.lines().any(|have| have == line), "{line}\nnot in\n{closed}");
    }
    assert!(!closed.contains(&format!("istio_tcp_connections_failed_total{HEAD}-")), "success is no failure");
    assert_eq!(table.len(), 1);
}

#[test]
fn sets_that_differ_only_where_a_value_ends_are_two() {
    let table = TrafficTable::default();
    let mut a = labels();
    (a.service.hostname, a.service.namespace) = (Some("ab"), Some("c"));
    let mut b = labels();
    (b.service.hostname, b.service.namespace) = (Some("a"), Some("bc"));
    let _open = (table.open(&a), table.open(&b), table.open(&a));
    assert_eq!(table.len(), 2);
}

#[test]
fn only_series_without_connections_for_the_whole_time_are_swept() {
    let table = TrafficTable::default();
    let start = Instant::now();
    let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
    let traffic = table.open(&labels());
    assert_eq!(table.sweep(at(0), SERIES_IDLE) + table.sweep(at(600), SERIES_IDLE), 0, "open");
    traffic.close(ResponseFlag::Ok);
    assert_eq!(table.sweep(at(601), SERIES_IDLE), 0, "first seen idle");
    drop(table.open(&labels()));
    assert_eq!(table.sweep(at(670), SERIES_IDLE), 0, "touched since");
    assert_eq!(table.sweep(at(729), SERIES_IDLE), 0, "59 minutes idle");
    assert_eq!((table.sweep(at(730), SERIES_IDLE), table.len()), (1, 0));
    assert_eq!(text(&table), "# EOF\n");
}

#[test]
fn past_the_limit_connections_count_as_unknown() {
    let table = TrafficTable::new(1);
    let _first = table.open(&labels());
    let mut other = labels();
    other.reporter = Reporter::Destination;
    let _second = table.open(&other);
    let _again = table.open(&labels());
    assert_eq!((table.len(), table.overflowed()), (2, 1));
    let text = text(&table);
    assert!(text.contains("{reporter=\"destination\",source_workload=\"unknown\""), "{text}");
    assert!(text.contains(&format!("istio_tcp_connections_opened_total{HEAD}-{TAIL} 2")), "{text}");
}

#[test]
fn a_thousand_clients_at_once_lose_no_count() {
    let table = TrafficTable::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    table.open(&labels()).close(ResponseFlag::Connect);
                    table.sweep(Instant::now(), SERIES_IDLE);
                }
            });
        }
    });
    let text = text(&table);
    assert!(text.contains(&format!("istio_tcp_connections_failed_total{HEAD}CONNECT{TAIL} 1000")), "{text}");
}
