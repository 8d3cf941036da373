//! The node message, by which this proxy introduces itself (docs/spec/controlplane.md 2.2).

use prost_types::{ListValue, Struct, Value, value::Kind as Json};

use crate::protocols::{config::NodeConfig, pb::ads::Node};

/// Makes the node message. The metadata in `config` already holds the pod, the node and the address.
pub(crate) fn node(config: &NodeConfig) -> Node {
    let ip = config.instance_ip;
    let pod = config.pod_name.as_deref().unwrap_or_default();
    let namespace = config.pod_namespace.as_deref().unwrap_or_default();
    let fields = config.metadata.iter().map(|(key, json)| (key.clone(), value(json.clone())));
    Node {
        // The control plane expects the literal `cluster.local` instead of the cluster's own domain.
        id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields: fields.collect() }),
        ..Node::default()
    }
}

/// Converts JSON to a protobuf value. serde_json bounds the depth: it refuses more than 128 levels.
fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as In;
    let kind = match json {
        In::Null => Json::NullValue(0),
        In::Bool(b) => Json::BoolValue(b),
        In::Number(n) => Json::NumberValue(n.as_f64().unwrap_or_default()),
        In::String(s) => Json::StringValue(s),
        In::Array(a) => Json::ListValue(ListValue { values: a.into_iter().map(value).collect() }),
        In::Object(o) => {
            Json::StructValue(Struct { fields: o.into_iter().map(|(k, v)| (k, value(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
