//! Queries that the DNS proxy answers while nothing else works: its client is not known, or connections are not proxied.

use hickory_proto::{op::ResponseCode, rr::RecordType::A};
use warren::lab::{control::resources::ResourceFault, testbed::readiness};

use crate::{metrics::metrics_show, names::*, support::*};

pub(crate) fn a_client_that_is_not_known_is_told_of_a_failure_until_it_is() {
    let client = "Kubernetes//Pod/default/client";
    let mut named = Named::raise_with(NAMED, RESOLV, &[("WARREN_WORKLOAD_TIMEOUT", "1s")]);
    served(&named.ask("client", "web", A), &["web. A 10.96.0.80"]);
    named.inject(client, Some(ResourceFault::Hidden));
    for by in BOTH {
        let answer = named.ask_by(by, "client", &question("web", A));
        assert_eq!(answer.response_code, ResponseCode::ServFail, "{answer:?}");
        assert!(answer.answers.is_empty(), "{answer:?}");
    }
    // A failure is an answer, and counted as one.
    metrics_show(&named.lab, "one", "two queries of a client that is not known", |metrics| {
        metrics.sum("istio_dns_requests_total", &[("source_canonical_service", "unknown")]) == 2.0
    });
    served(&named.ask("near", "web", A), &["web. A 10.96.0.80"]);
    named.inject(client, None);
    served(&named.ask("client", "web", A), &["web. A 10.96.0.80"]);
}

pub(crate) fn without_proxying_names_are_answered_and_nobody_listens_for_connections() {
    let named = Named::raise_with(NAMED, RESOLV, &[("ENABLE_PROXY", "false")]);
    for by in BOTH {
        let answer = named.ask_by(by, "client", &question("web", A));
        served(&answer, &["web. A 10.96.0.80"]);
    }
    let pod = named.lab.pod("client").unwrap();
    for port in [15001, 15006, 15008] {
        assert!(dial_from(pod, addr(&format!("127.0.0.1:{port}"))).is_err(), "{port}");
    }
    let node = named.lab.node("one").unwrap();
    assert!(dial_from(node, addr("127.0.0.1:15008")).is_err());
    // The rules still turn connections to where nobody listens, which is no fault of the pod.
    assert!(dial(&named.lab, "client", "10.77.1.2:9000").is_err());
    metrics_show(&named.lab, "one", "pods that were examined and found sound", |metrics| {
        metrics.sum("workload_manager_active_proxy_count", &[]) == 4.0
            && metrics.sum("warren_pods", &[("state", "unhealthy")]) == 0.0
    });
    assert_eq!(readiness(node).unwrap().body, "ready\n");
}
