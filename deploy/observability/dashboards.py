#!/usr/bin/env python3
"""Writes the Grafana dashboards, dashboards/*.json, from the tables below. With --check it compares them instead.

A panel is (title, unit, what it shows, queries); a query is (expression, legend). `$pod` is a variable of each dashboard:
the pods of the proxies.
"""
import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "dashboards"
POD = '{pod=~"$pod"}'
RATE = "[$__rate_interval]"


def rate(family, by, labels="", sign=""):
    """The rate of a counter, added up by labels."""
    return f'{sign}sum by ({by}) (rate({family}{{pod=~"$pod"{labels}}}{RATE}))'


def event(family, by, labels=""):
    """The rate of a counter that is left out of a scrape until something happens; 0 until then."""
    return f"{rate(family, by, labels)} or vector(0)"


TRAFFIC = {
    "Process": [
        ("Versions", "short", "The versions that run.", [('sum(istio_build{component="ztunnel"}) by (tag)', "{{tag}}")]),
        ("Memory", "bytes", "Memory of each pod, by cAdvisor.", [
            ('sum by (pod) (container_memory_working_set_bytes{container="istio-proxy", pod=~"$pod"})', "{{pod}}")]),
        ("Processor", "short", "Processor seconds a second of each pod, by cAdvisor.", [
            (f'sum by (pod) (irate(container_cpu_usage_seconds_total{{container="istio-proxy", pod=~"$pod"}}{RATE}))',
             "{{pod}}")]),
    ],
    "Network": [
        ("Connections", "cps", "Connections opened, and below the line closed.", [
            (rate("istio_tcp_connections_opened_total", "pod"), "opened {{pod}}"),
            (rate("istio_tcp_connections_closed_total", "pod", sign="-"), "closed {{pod}}")]),
        ("Bytes", "Bps", "Bytes from servers to clients (sent) and from clients to servers (received).", [
            (rate("istio_tcp_sent_bytes_total", "pod"), "sent {{pod}}"),
            (rate("istio_tcp_received_bytes_total", "pod"), "received {{pod}}")]),
        ("DNS questions", "qps", "Questions of pods.", [(rate("istio_dns_requests_total", "pod"), "{{pod}}")]),
    ],
    "Operations": [
        ("Discovery", "short", "Streams of the control plane that ended.", [
            (event("istio_xds_connection_terminations_total", "pod"), "ended {{pod}}")]),
        ("Hand-over", "short", "Pods that are served, and pods that wait, which should soon be none.", [
            (f"sum by (pod) (workload_manager_active_proxy_count{POD})", "served {{pod}}"),
            (f"sum by (pod) (workload_manager_pending_proxy_count{POD})", "waiting {{pod}}")]),
    ],
    "Failures": [
        ("Failed connections", "cps", "Connections that did not end well, by response flag.", [
            (event("istio_tcp_connections_failed_total", "reporter, response_flags"), "{{reporter}} {{response_flags}}")]),
        ("Mutual TLS", "percentunit", "The part of the opened connections that had mutual TLS.", [
            (rate("istio_tcp_connections_opened_total", "reporter", ', connection_security_policy="mutual_tls"')
             + " / " + rate("istio_tcp_connections_opened_total", "reporter"), "{{reporter}}")]),
        ("Attempts", "cps", "Attempts to reach a next hop. A connection has several if one fails.", [
            (rate("warren_outbound_attempts_total", "result, reason"), "{{result}} {{reason}}")]),
        ("No way", "cps", "Outbound connections without a next hop.", [
            (event("warren_outbound_unroutable_total", "reason"), "{{reason}}")]),
        ("Name servers", "percentunit", "The part of the questions to name servers that none answered.", [
            (f"sum by (pod) (rate(istio_dns_upstream_failures_total{POD}{RATE}))"
             f" / sum by (pod) (rate(istio_dns_upstream_requests_total{POD}{RATE})) or vector(0)", "{{pod}}")]),
        ("Busiest services", "cps", "The ten services with the most new connections, by their clients' proxies.", [
            ("topk(10, " + rate("istio_tcp_connections_opened_total", "destination_service", ', reporter="source"') + ")",
             "{{destination_service}}")]),
    ],
}

SUPERVISION = {
    "Pods": [
        ("Pods by state", "short", "Pods of all nodes.", [(f"sum by (state) (warren_pods{POD})", "{{state}}")]),
        ("Pods out of the mesh", "short", "Pods that are out of the mesh, by reason. Readiness names them.", [
            (f"sum by (pod, reason) (warren_pods_unhealthy{POD}) > 0 or vector(0)", "{{pod}} {{reason}}")]),
        ("Repairs", "short", "What audits have put right.", [(event("warren_pod_repairs_total", "what"), "{{what}}")]),
    ],
    "Actors": [
        ("Restarts", "short", "Actors started again, by kind.", [
            (event("warren_actor_restarts_total", "kind"), "{{kind}}")]),
        ("Crashes", "short", "Actors that failed or were killed, by kind.", [
            (event("warren_actor_crashes_total", "kind"), "{{kind}}")]),
        ("Panics", "short", "Tasks that panicked, and panics wherever they were caught.", [
            (event("warren_task_panics_total", "kind"), "task {{kind}}"), (rate("warren_panics_total", "pod"), "{{pod}}")]),
        ("Quarantine", "short", "Input and actors that are set aside for crashing.", [
            (f"sum by (kind) (warren_quarantined{POD})", "input {{kind}}"),
            (f"sum by (kind) (warren_actors_quarantined{POD}) or vector(0)", "actor {{kind}}")]),
        ("Oldest message", "s", "The longest that a message waits.", [
            (f"max by (kind) (warren_actor_mailbox_oldest_seconds{POD})", "{{kind}}")]),
        ("Messages", "short", "Messages that actors handle.", [
            (rate("warren_actor_messages_total", "kind"), "{{kind}}")]),
        ("Time in handlers", "percentunit", "The part of the time that actors of a kind spend in handlers.", [
            (rate("warren_actor_handler_seconds_total", "kind"), "{{kind}}")]),
    ],
    "Control plane": [
        ("Pushes", "short", "Responses of the control plane, by type.", [
            (rate("istio_xds_message_total", "url"), "{{url}}")]),
        ("Bytes of pushes", "Bps", "Bytes of resources.", [(rate("istio_xds_message_bytes_total", "url"), "{{url}}")]),
        ("Refused resources", "short", "Resources that could not be applied.", [
            (event("warren_xds_rejected_resources_total", "url"), "{{url}}")]),
        ("Missing policies", "short", "Policies that workloads name and the control plane does not have.", [
            (f"sum by (pod) (warren_policies_missing{POD})", "{{pod}}")]),
        ("Connections checked again", "short", "Live connections decided about again after a change.", [
            (rate("warren_policy_rechecks_total", "pod"), "{{pod}}")]),
    ],
}

CAPACITY = {
    "Shards": [
        ("Processor of a shard", "percentunit", "The processor time of each shard. A shard can use one processor.", [
            (rate("warren_shard_cpu_seconds_total", "pod, shard"), "{{pod}} {{shard}}")]),
        ("Busiest shard", "percentunit", "The busiest shard of each node, over 5 minutes.", [
            (f"pod:warren_shard_cpu:max_rate5m{POD}", "{{pod}}")]),
        ("Connections of a shard", "short", "Live connections.", [
            (f"sum by (pod, shard) (warren_shard_connections{POD})", "{{pod}} {{shard}}")]),
        ("Tunnels of a shard", "short", "Live tunnels, by either end.", [
            (f"sum by (pod, shard) (warren_shard_tunnels{POD})", "{{pod}} {{shard}}")]),
        ("Taken", "cps", "Connections and tunnels that shards took.", [
            (rate("warren_shard_taken_total", "pod, shard"), "{{pod}} {{shard}}")]),
    ],
    "Pods": [
        ("Busiest pods", "percentunit", "Processor time of the connections and tunnels of a pod.", [
            (f'topk(10, {rate("warren_pod_cpu_seconds_total", "workload_pod")})', "{{workload_pod}}")]),
        ("Bytes", "Bps", "Bytes over the connections of a pod, both ways.", [
            (f'topk(10, {rate("warren_pod_received_bytes_total", "workload_pod")}'
             f' + {rate("warren_pod_sent_bytes_total", "workload_pod")})', "{{workload_pod}}")]),
        ("Connections", "cps", "Connections of a pod that were opened.", [
            (f'topk(10, {rate("warren_pod_connections_total", "workload_pod")})', "{{workload_pod}}")]),
    ],
    "Bounds": [
        ("File descriptors", "percentunit", "The part of the allowed descriptors that is open.", [
            (f"process_open_fds{POD} / process_max_fds{POD}", "{{pod}}")]),
        ("Open sockets", "short", "Accepted sockets that are open.", [
            (f"sum by (pod, reporter) (istio_tcp_sockets_open{POD})", "{{pod}} {{reporter}}")]),
        ("Tunnels", "short", "Tunnels to peers.", [(f"sum by (pod) (warren_tunnels{POD})", "{{pod}}")]),
        ("Label sets", "short", "Label sets of connections that are kept, and connections without room for theirs.", [
            (f"sum by (pod) (warren_traffic_series{POD})", "kept {{pod}}"),
            (f"sum by (pod) (warren_traffic_overflowed_connections{POD})", "without room {{pod}}"),
            (f"sum by (pod) (warren_traffic_undescribed_connections{POD})", "undescribed {{pod}}")]),
    ],
    "Telemetry": [
        ("Lost log lines", "short", "Log lines that nobody read in time.", [
            (f"sum by (pod) (warren_log_lines_lost{POD})", "{{pod}}")]),
        ("Exported", "short", "Spans and log records that a collector took.", [
            (event("warren_trace_spans_exported_total", "pod"), "spans {{pod}}"),
            (event("warren_log_records_exported_total", "pod"), "log records {{pod}}")]),
        ("Dropped", "short", "Spans, log records and exports of metrics that no collector got.", [
            (event("warren_trace_spans_dropped_total", "reason"), "spans {{reason}}"),
            (event("warren_log_records_dropped_total", "reason"), "log records {{reason}}"),
            (event("warren_metric_exports_dropped_total", "reason"), "metrics {{reason}}")]),
    ],
}

CERTIFICATES = {
    "Certificates": [
        ("By state", "short", "Certificates of all nodes.", [(f"sum by (state) (warren_certificates{POD})", "{{state}}")]),
        ("Unavailable", "short", "Identities without a certificate, by node. Readiness names one, with the reason.", [
            (f'sum by (pod) (warren_certificates{{pod=~"$pod", state="unavailable"}})', "{{pod}}")]),
        ("Identity errors", "cps", "Connections that failed for want of a certificate, or in TLS.", [
            (event("istio_tcp_connections_failed_total", "response_flags",
                   ', response_flags=~"IDENTITY_ERROR|TLS_FAILURE|CERT_REVOKED"'), "{{response_flags}}")]),
    ],
    "Revocation": [
        ("Revoked peers", "cps", "Peers refused, and tunnels cut, for a revoked certificate.", [
            (event("istio_crl_policy_rejections_total", "reporter"), "{{reporter}}")]),
        ("Untracked", "cps", "Tunnels with a certificate that no list will cut.", [
            (event("istio_crl_untracked_connections_total", "reporter"), "{{reporter}}")]),
    ],
}

DASHBOARDS = {
    "traffic": ("warren: traffic", "What ztunnel's dashboard shows, and what fails.", TRAFFIC),
    "supervision": ("warren: supervision", "Pods, actors and the control plane.", SUPERVISION),
    "capacity": ("warren: capacity", "Shards, bounds and telemetry.", CAPACITY),
    "certificates": ("warren: certificates", "Certificates and revocation.", CERTIFICATES),
}

SOURCE = {"type": "prometheus", "uid": "$datasource"}


def panel(number, place, title, unit, description, queries):
    targets = [
        {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index)}
        for index, (expression, legend) in enumerate(queries)
    ]
    custom = {"fillOpacity": 10, "showPoints": "never"}
    return {
        "id": number, "type": "timeseries", "title": title, "description": description, "datasource": SOURCE,
        "gridPos": place, "fieldConfig": {"defaults": {"unit": unit, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "table", "calcs": ["last", "max"]}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def dashboard(title, description, rows):
    panels, y = [], 0
    for row, content in rows.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for index, parts in enumerate(content):
            place = {"h": 8, "w": 8, "x": 8 * (index % 3), "y": y + 8 * (index // 3)}
            panels.append(panel(len(panels) + 1, place, *parts))
        y += 8 * ((len(content) + 2) // 3)
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {"name": "pod", "type": "query", "label": "Proxy", "datasource": SOURCE, "includeAll": True, "multi": True,
         "allValue": "ztunnel-.*", "current": {"text": "All", "value": "$__all"}, "refresh": 2,
         "query": {"query": 'label_values(istio_build{component="ztunnel"}, pod)', "refId": "pod"}},
    ]
    return {
        "title": title, "description": description, "uid": hashlib.sha256(title.encode()).hexdigest()[:32],
        "tags": ["istio", "ambient", "warren"], "schemaVersion": 39, "timezone": "utc", "editable": True,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables}, "panels": panels,
    }


def main():
    stale = []
    for name, parts in DASHBOARDS.items():
        path, text = HERE / f"{name}.json", json.dumps(dashboard(*parts), indent=1) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"{', '.join(stale)}: run deploy/observability/dashboards.py")


main()
