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
