//! All families of metrics there are (docs/spec, controlplane.md section 5.2, and ours beside them).

use super::declaration::{Declaration, Kind};
use crate::protocols::labels::TRAFFIC;

/// Declares families; each line has the constant, the family's name, type, labels and help.
macro_rules! declare {
    ($($id:ident = $name:literal, $kind:expr, $labels:expr, $help:literal;)*) => {
        $(pub(crate) const $id: &Declaration =
            &Declaration { name: $name, kind: $kind, help: $help, labels: $labels };)*

        /// All families, in no order.
        pub(crate) const ALL: &[&Declaration] = &[$($id),*];
    };
}

const COUNTER: Kind = Kind::Counter;
const GAUGE: Kind = Kind::Gauge;
/// Upper bounds of the times in which a push is applied, in seconds.
const PUSH_SECONDS: Kind = Kind::Histogram(&[0.001, 0.01, 0.1, 1.0, 10.0, 60.0]);
/// Upper bounds of the times of the steps that set a connection up, in seconds.
pub(crate) const SETUP_BOUNDS: [f64; 9] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0, 5.0];
const SETUP_SECONDS: Kind = Kind::Histogram(&SETUP_BOUNDS);
/// Upper bounds of the times of name servers, in seconds.
const DNS_SECONDS: Kind = Kind::Histogram(&[0.0005, 0.001, 0.01, 0.1, 1.0, 5.0]);

/// Upper bounds of the times that connections stand still, in seconds.
const STALL_SECONDS: Kind = Kind::Histogram(&[0.001, 0.005, 0.025, 0.05, 0.25, 1.0]);

const DNS: &[&str] =
    &["request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"];
const ON_DEMAND: &[&str] = &[
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "hostname",
];

/// The label of a pod as `namespace/name`. Prometheus has `pod` for the pod that was scraped, which is the proxy's.
const POD: &[&str] = &["workload_pod"];

declare! {
    // Connections.
    OPENED = "istio_tcp_connections_opened_total", COUNTER, &TRAFFIC, "TCP connections opened";
    CLOSED = "istio_tcp_connections_closed_total", COUNTER, &TRAFFIC, "TCP connections closed";
    FAILED = "istio_tcp_connections_failed_total", COUNTER, &TRAFFIC, "TCP connections that did not end well";
    RECEIVED = "istio_tcp_received_bytes_total", COUNTER, &TRAFFIC, "Bytes from client to server";
    SENT = "istio_tcp_sent_bytes_total", COUNTER, &TRAFFIC, "Bytes from server to client";
    ATTEMPTS = "warren_outbound_attempts_total", COUNTER, &["result", "reason"],
        "Attempts to reach a next hop; a connection has several if one fails";
    UNROUTABLE = "warren_outbound_unroutable_total", COUNTER, &["reason"],
        "Outbound connections that had no next hop";
    SOCKETS = "istio_tcp_sockets_open", GAUGE, &["reporter"], "Accepted sockets that are open";
    TRAFFIC_SERIES = "warren_traffic_series", GAUGE, &[], "Label sets of connections that are kept";
    TRAFFIC_OVERFLOWED = "warren_traffic_overflowed_connections", GAUGE, &[],
        "Connections counted as unknown for want of room for their labels";
    TRAFFIC_UNDESCRIBED = "warren_traffic_undescribed_connections", GAUGE, &[],
        "Connections counted under their peer's identity alone, as the peer describes itself in too many ways";
    SETUP = "warren_connection_setup_seconds", SETUP_SECONDS, &["step"],
        "Time that a step of setting a connection up took";
    HANDSHAKES = "warren_handshakes_total", COUNTER, &["reporter", "group", "cipher"],
        "TLS handshakes of tunnels by key exchange group and cipher suite";
    BUFFER_BYTES = "warren_buffer_bytes", GAUGE, &[], "Bytes from tunnels that wait for readers that do not read";
    BUFFER_LENT = "warren_buffer_lent_bytes", GAUGE, &[],
        "Bytes that peers may send beyond the first windows of streams";
    BUFFER_BUDGET = "warren_buffer_budget_bytes", GAUGE, &[], "Most that the streams of tunnels may hold together";
    TUNNELS = "warren_tunnels", GAUGE, &[], "Tunnels to peers";
    CRL_REJECTED = "istio_crl_policy_rejections_total", COUNTER, &["reporter"],
        "Peers refused, and tunnels cut, for a revoked certificate";
    CRL_UNTRACKED = "istio_crl_untracked_connections_total", COUNTER, &["reporter"],
        "Tunnels with a certificate that cannot be read, which no revocation list will cut";

    HANDOVER = "warren_handover_connections_total", COUNTER, &["result", "kind"],
        "Live connections offered to the next process (given, kept) or by the former one (taken, refused)";
    HANDOVER_STALL = "warren_handover_stall_seconds", STALL_SECONDS, &["kind"],
        "Time that a connection stood still on its way from the former process";

    // The control plane.
    XDS_TERMINATIONS = "istio_xds_connection_terminations_total", COUNTER, &["reason"],
        "Control-plane streams that ended";
    XDS_MESSAGES = "istio_xds_message_total", COUNTER, &["url"], "Responses of the control plane";
    XDS_BYTES = "istio_xds_message_bytes_total", COUNTER, &["url"], "Bytes of resources of the control plane";
    XDS_REJECTED = "warren_xds_rejected_resources_total", COUNTER, &["url"], "Resources that could not be applied";

    XDS_APPLIED = "warren_xds_apply_seconds", PUSH_SECONDS, &["url"],
        "Time from the arrival of a push until it is applied";
    POLICIES_MISSING = "warren_policies_missing", GAUGE, &[],
        "Policies that workloads name and the control plane does not have";
    POLICY_RECHECKS = "warren_policy_rechecks_total", COUNTER, &[],
        "Live connections decided about again because a policy or workload concerned has changed";

    // Names.
    ON_DEMAND_DNS = "istio_on_demand_dns_total", COUNTER, ON_DEMAND,
        "Resolutions of hostnames of workloads without addresses";
    DNS_REQUESTS = "istio_dns_requests_total", COUNTER, DNS, "Questions that pods have asked";
    DNS_FORWARDED = "istio_dns_upstream_requests_total", COUNTER, DNS, "Questions put to name servers";
    DNS_FAILED = "istio_dns_upstream_failures_total", COUNTER, DNS, "Questions that no name server answered";
    DNS_TOOK = "istio_dns_upstream_request_duration_seconds", DNS_SECONDS, DNS,
        "Time that name servers took to answer";

    // Pods.
    ACTIVE = "workload_manager_active_proxy_count", GAUGE, &[], "Pods that are proxied";
    PENDING = "workload_manager_pending_proxy_count", GAUGE, &[], "Pods that wait for another attempt";
    STARTED = "workload_manager_proxies_started_total", COUNTER, &[], "Pods whose proxy was started";
    STOPPED = "workload_manager_proxies_stopped_total", COUNTER, &[], "Pods whose proxy was stopped";
    PODS = "warren_pods", GAUGE, &["state"], "Pods by state";
    UNHEALTHY = "warren_pods_unhealthy", GAUGE, &["reason"], "Pods that fell out of the mesh";
    REPAIRS = "warren_pod_repairs_total", COUNTER, &["what"], "What audits of pods have put right";
    POD_CONNECTIONS = "warren_pod_connections_total", COUNTER, POD,
        "Connections of a pod; the pods that carry the least are counted as rest";
    POD_RECEIVED = "warren_pod_received_bytes_total", COUNTER, POD,
        "Bytes from clients to servers over connections of a pod";
    POD_SENT = "warren_pod_sent_bytes_total", COUNTER, POD,
        "Bytes from servers to clients over connections of a pod";
    POD_HANDSHAKES = "warren_pod_handshakes_total", COUNTER, POD,
        "Tunnels of a pod that were begun, by either end";
    POD_CPU = "warren_pod_cpu_seconds_total", COUNTER, POD,
        "Processor time of the connections and tunnels of a pod, reckoned from one turn in 64";
    CERTIFICATES = "warren_certificates", GAUGE, &["state"], "Certificates by state";
    CERTIFICATE_AGE = "warren_certificate_oldest_age_seconds", GAUGE, &[],
        "Age of the oldest certificate in use";
    CERTIFICATE_LEFT = "warren_certificate_soonest_expiry_seconds", GAUGE, &[],
        "Time until the next certificate in use expires; below zero once it has";

    // Actors and shards.
    RESTARTS = "warren_actor_restarts_total", COUNTER, &["kind"], "Actors started again";
    CRASHES = "warren_actor_crashes_total", COUNTER, &["kind"], "Actors that failed or were killed";
    QUARANTINED_ACTORS = "warren_actors_quarantined", GAUGE, &["kind"], "Actors quarantined for failing again";
    QUARANTINED_INPUT = "warren_quarantined", GAUGE, &["kind"], "Input quarantined for crashing its handler";
    TASK_PANICS = "warren_task_panics_total", COUNTER, &["kind"], "Tasks that panicked";
    PANICS = "warren_panics_total", COUNTER, &[], "Panics, wherever they were caught";
    MAILBOX_DEPTH = "warren_actor_mailbox_depth", GAUGE, &["kind"],
        "Messages that wait, over all actors of a kind";
    MAILBOX_OLDEST = "warren_actor_mailbox_oldest_seconds", GAUGE, &["kind"],
        "Longest that a message waits now, of all actors of a kind";
    MESSAGES = "warren_actor_messages_total", COUNTER, &["kind"], "Messages handled";
    HANDLER_SECONDS = "warren_actor_handler_seconds_total", COUNTER, &["kind"],
        "Time in handlers, awaits included";
    SHARD_CONNECTIONS = "warren_shard_connections", GAUGE, &["shard"], "Connections of applications now";
    SHARD_TUNNELS = "warren_shard_tunnels", GAUGE, &["shard"], "Tunnels now, by either end";
    SHARD_TAKEN = "warren_shard_taken_total", COUNTER, &["shard"], "Connections and tunnels taken";
    SHARD_SECONDS = "warren_shard_cpu_seconds_total", COUNTER, &["shard"],
        "Processor time of the shard's threads";

    // The process and its telemetry.
    BUILD = "istio_build", GAUGE, &["component", "tag"], "Version of the proxy";
    POD_FDS = "warren_pod_descriptors", GAUGE, POD,
        "File descriptors reckoned for the connections of the 16 pods with the most";
    FD_WAITERS = "warren_pods_waiting_for_descriptors", GAUGE, &[], "Pods that wait for file descriptors";
    OPEN_FDS = "process_open_fds", GAUGE, &[], "Number of open file descriptors";
    MAX_FDS = "process_max_fds", GAUGE, &[], "Most file descriptors the process may open";
    LOG_LINES_LOST = "warren_log_lines_lost", GAUGE, &[], "Log lines lost because nobody read them";
    SPANS_EXPORTED = "warren_trace_spans_exported_total", COUNTER, &[], "Spans a collector took";
    SPANS_DROPPED = "warren_trace_spans_dropped_total", COUNTER, &["reason"], "Spans that no collector got";
    SPAN_FAILURES = "warren_trace_export_failures_total", COUNTER, &[],
        "Requests with spans a collector did not take";
    RECORDS_EXPORTED = "warren_log_records_exported_total", COUNTER, &[], "Log records a collector took";
    RECORDS_DROPPED = "warren_log_records_dropped_total", COUNTER, &["reason"],
        "Log records that no collector got";
    RECORD_FAILURES = "warren_log_export_failures_total", COUNTER, &[],
        "Requests with log records a collector did not take";
    EXPORTS = "warren_metric_exports_total", COUNTER, &[], "Exports of all metrics that a collector took whole";
    EXPORTS_DROPPED = "warren_metric_exports_dropped_total", COUNTER, &["reason"],
        "Exports of metrics that no collector got, or not whole";
    EXPORT_FAILURES = "warren_metric_export_failures_total", COUNTER, &[],
        "Requests with metrics a collector did not take";
}

#[cfg(test)]
mod tests;
