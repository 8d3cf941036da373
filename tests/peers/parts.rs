//! Parts of the configurations of Envoy: extensions, filters and clusters.

use serde_json::{Value, json};

/// How long the streams of a tunnel go on after its GOAWAY. An Envoy resets those that are left.
const DRAIN_TIMEOUT: &str = "3s";
/// Where an internal listener finds the destination of a connection.
pub(crate) const DESTINATION: &str = "envoy.filters.listener.original_dst";
const DESTINATION_ADDRESS: &str = "envoy.filters.listener.original_dst.local_ip";

/// An extension with its configuration.
pub(crate) fn typed(name: &str, of: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.{of}").into();
    json!({"name": name, "typed_config": config})
}

pub(crate) fn socket(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// The access log of a listener: one line of JSON for each stream or connection.
pub(crate) fn access_log(listener: &str) -> Value {
    let fields = json!({
        "listener": listener,
        "authority": "%REQ(:AUTHORITY)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "peer": "%DOWNSTREAM_PEER_URI_SAN%",
        "own": "%DOWNSTREAM_LOCAL_URI_SAN%",
        "upstream": "%UPSTREAM_PEER_URI_SAN%",
        "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        "baggage": "%REQ(BAGGAGE)%",
        "forwarded": "%REQ(FORWARDED)%",
        "traceparent": "%REQ(TRACEPARENT)%",
        "network": "%REQ(X-FORWARDED-NETWORK)%",
        "answer": "%FILTER_STATE(envoy.tcp_proxy.propagate_response_headers:TYPED)%",
        "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "to": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "principal": "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:principal)%",
    });
    let log = "extensions.access_loggers.stream.v3.StdoutAccessLog";
    json!([typed("stdout", log, json!({"log_format": {"json_format": fields}}))])
}

pub(crate) fn tcp_proxy(listener: &str, cluster: &str) -> Value {
    let config = json!({"stat_prefix": listener, "cluster": cluster, "access_log": access_log(listener)});
    typed("tcp", "extensions.filters.network.tcp_proxy.v3.TcpProxy", config)
}

/// A proxy that opens a CONNECT stream to `authority` for each connection. `headers` go along.
pub(crate) fn tunneling_proxy(
    listener: &str,
    cluster: &str,
    authority: &str,
    headers: &[(&str, &str)],
) -> Value {
    let mut proxy = tcp_proxy(listener, cluster);
    let header = |(key, value): &(&str, &str)| json!({"header": {"key": key, "value": value}});
    let headers: Vec<Value> = headers.iter().map(header).collect();
    proxy["typed_config"]["tunneling_config"] =
        json!({"hostname": authority, "headers_to_add": headers, "propagate_response_headers": true});
    proxy
}

/// An HTTP connection manager: `config` with what all of them have.
pub(crate) fn manager(listener: &str, mut config: Value) -> Value {
    config["stat_prefix"] = listener.into();
    config["access_log"] = access_log(listener);
    config["drain_timeout"] = DRAIN_TIMEOUT.into();
    typed("manager", "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", config)
}

/// HTTP/2 of tunnels, with the windows of a waypoint.
pub(crate) fn http2() -> Value {
    json!({
        "allow_connect": true,
        "initial_stream_window_size": 256 * 1024,
        "initial_connection_window_size": 1024 * 1024,
        "connection_keepalive": {"interval": "10s", "timeout": "20s"},
    })
}

pub(crate) fn router() -> Value {
    typed("router", "extensions.filters.http.router.v3.Router", json!({}))
}

/// Sets the destination of the next internal listener to `format`.
pub(crate) fn destination(format: &str) -> Value {
    json!([{
        "object_key": DESTINATION_ADDRESS,
        "format_string": {"text_format_source": {"inline_string": format}},
        "shared_with_upstream": "ONCE",
    }])
}

pub(crate) fn destination_of_request(format: &str) -> Value {
    let config = json!({"on_request_headers": destination(format)});
    typed("destination", "extensions.filters.http.set_filter_state.v3.Config", config)
}

pub(crate) fn destination_of_connection(format: &str) -> Value {
    let config = json!({"on_new_connection": destination(format)});
    typed("destination", "extensions.filters.network.set_filter_state.v3.Config", config)
}

/// A listener filter that takes the destination which an internal connection was given.
pub(crate) fn take_destination() -> Value {
    json!([typed("destination", "extensions.filters.listener.original_dst.v3.OriginalDst", json!({}))])
}

/// One endpoint's address, behind an internal listener or on the network.
pub(crate) fn endpoint(address: &Value) -> Value {
    json!({"endpoint": {"address": address}})
}

pub(crate) fn cluster(name: &str, endpoints: &[Value]) -> Value {
    json!({
        "name": name,
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

/// Wraps what leads to an internal listener, with the destination that the endpoint's metadata names.
pub(crate) fn internal(mut cluster: Value) -> Value {
    let raw = typed("raw", "extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({}));
    let config = json!({
        "passthrough_metadata": [{"kind": {"host": {}}, "name": DESTINATION}],
        "transport_socket": raw,
    });
    let of = "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
    cluster["transport_socket"] = typed("internal", of, config);
    cluster
}

pub(crate) fn internal_address(listener: &str, id: &str) -> Value {
    json!({"envoy_internal_address": {"server_listener_name": listener, "endpoint_id": id}})
}
