//! Who we say we are (docs/spec/controlplane.md 2.2).

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind as Json};

use crate::protocols::pb::ads::Node;

/// What the node message is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInputs {
    /// `INSTANCE_IP`; a valid address, or the control plane refuses the node.
    pub ip: String,
    /// `POD_NAME`, or empty.
    pub pod: String,
    /// `POD_NAMESPACE`, or empty.
    pub namespace: String,
    /// `NODE_NAME`, or empty.
    pub node_name: String,
    /// proxyMetadata overlaid by `ISTIO_META_<K>`, keyed by `<K>`.
    pub metadata: BTreeMap<String, String>,
    /// `ISTIO_METAJSON_<K>`, keyed by `<K>`: JSON text.
    pub json_metadata: BTreeMap<String, String>,
}

/// An `ISTIO_METAJSON_` value that was skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node metadata {key:?} is not JSON, and is left out: {reason}")]
pub struct BadMetadata {
    /// `<K>`.
    pub key: String,
    /// What the parser says.
    pub reason: String,
}

/// The node message, and the metadata that had to be left out.
pub fn node(inputs: &NodeInputs) -> (Node, Vec<BadMetadata>) {
    let NodeInputs { ip, pod, namespace, node_name, metadata, json_metadata } = inputs;
    let mut fields: BTreeMap<String, Value> = BTreeMap::new();
    for (key, text) in
        [("NAME", pod), ("NAMESPACE", namespace), ("INSTANCE_IPS", ip), ("NODE_NAME", node_name)]
    {
        fields.insert(key.to_owned(), string(text));
    }
    for (key, text) in metadata {
        fields.insert(key.clone(), string(text));
    }
    let mut bad = Vec::new();
    for (key, text) in json_metadata {
        match serde_json::from_str(text) {
            Ok(json) => _ = fields.insert(key.clone(), value(json)),
            Err(e) => bad.push(BadMetadata { key: key.clone(), reason: e.to_string() }),
        }
    }
    let node = Node {
        // Not the cluster's own domain: the control plane expects this literal.
        id: format!("ztunnel~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    };
    (node, bad)
}

fn string(text: &str) -> Value {
    Value { kind: Some(Json::StringValue(text.to_owned())) }
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
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn id_has_four_parts_and_a_literal_domain() {
        let inputs = NodeInputs {
            ip: "10.0.0.1".into(),
            pod: "ztunnel-x".into(),
            namespace: "istio-system".into(),
            ..NodeInputs::default()
        };
        assert_eq!(
            node(&inputs).0.id,
            "ztunnel~10.0.0.1~ztunnel-x.istio-system~istio-system.svc.cluster.local"
        );
        let bare = NodeInputs { ip: "1.1.1.1".into(), ..NodeInputs::default() };
        assert_eq!(node(&bare).0.id, "ztunnel~1.1.1.1~.~.svc.cluster.local");
    }

    #[test]
    fn later_metadata_wins_and_bad_json_is_named_and_skipped() {
        let inputs = NodeInputs {
            ip: "10.0.0.1".into(),
            pod: "p".into(),
            namespace: "n".into(),
            node_name: "node-1".into(),
            metadata: map(&[("CLUSTER_ID", "Kubernetes"), ("NODE_NAME", "other"), ("A", "text")]),
            json_metadata: map(&[("A", r#"{"b":[1.5,true,null,"x"]}"#), ("BAD", "{")]),
        };
        let (node, bad) = node(&inputs);
        let fields = node.metadata.unwrap().fields;
        for (key, text) in [
            ("NAME", "p"),
            ("NAMESPACE", "n"),
            ("INSTANCE_IPS", "10.0.0.1"),
            ("NODE_NAME", "other"),
            ("CLUSTER_ID", "Kubernetes"),
        ] {
            assert_eq!(fields[key], string(text), "{key}");
        }
        let list = [Json::NumberValue(1.5), Json::BoolValue(true), Json::NullValue(0)];
        let mut values: Vec<Value> = list.into_iter().map(|k| Value { kind: Some(k) }).collect();
        values.push(string("x"));
        let b = Value { kind: Some(Json::ListValue(ListValue { values })) };
        let a = Struct { fields: [("b".to_owned(), b)].into() };
        assert_eq!(fields["A"], Value { kind: Some(Json::StructValue(a)) });
        assert_eq!(fields.len(), 6);
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].key, "BAD");
        assert!(node.build_version.is_empty() && node.cluster.is_empty());
    }
}
