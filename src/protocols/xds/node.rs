//! The node message, by which this proxy introduces itself (docs/spec/controlplane.md 2.2).

use prost_types::{ListValue, Struct, Value, value::Kind as Json};

use crate::protocols::{config::NodeConfig, pb::ads::Node};

/// The node message. The metadata of the settings has the pod, the node and the address already.
pub(crate) fn node(config: &NodeConfig) -> Node {
    let ip = config.instance_ip;
    let pod = config.pod_name.as_deref().unwrap_or_default();
    let namespace = config.pod_namespace.as_deref().unwrap_or_default();
    let fields = config.metadata.iter().map(|(key, json)| (key.clone(), value(json.clone())));
    Node {
        // Not the cluster's own domain: the control plane expects this literal.
        id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields: fields.collect() }),
        ..Node::default()
    }
}

/// Depth is bounded by serde_json, which refuses more than 128 levels.
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
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn id_has_four_parts_and_a_literal_domain() {
        let bare = NodeConfig::default();
        assert_eq!(node(&bare).id, "ztunnel~1.1.1.1~.~.svc.cluster.local");
        let config = NodeConfig {
            instance_ip: "10.0.0.1".parse().unwrap(),
            pod_name: Some("ztunnel-x".into()),
            pod_namespace: Some("istio-system".into()),
            ..bare
        };
        let id = "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local";
        assert_eq!(node(&config).id, id);
    }

    #[test]
    fn metadata_is_text_or_json() {
        let metadata = [("A", json!({"b": [1.5, true, null, "x"]})), ("NODE_NAME", json!("other"))];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let node = node(&NodeConfig { metadata, ..NodeConfig::default() });
        let fields = node.metadata.unwrap().fields;
        let string = |text: &str| Json::StringValue(text.to_owned());
        let list = [Json::NumberValue(1.5), Json::BoolValue(true), Json::NullValue(0), string("x")];
        let values = list.into_iter().map(|kind| Value { kind: Some(kind) }).collect();
        let b = Value { kind: Some(Json::ListValue(ListValue { values })) };
        let a = Struct { fields: [("b".to_owned(), b)].into() };
        assert_eq!(fields["A"], Value { kind: Some(Json::StructValue(a)) });
        assert_eq!(fields["NODE_NAME"], Value { kind: Some(string("other")) });
        assert_eq!(fields.len(), 2);
        assert!(node.build_version.is_empty() && node.cluster.is_empty());
    }
}
