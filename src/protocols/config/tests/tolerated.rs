//! Values and addresses that the incumbent takes in its own way.

use super::*;

#[test]
fn what_the_incumbent_tolerates_is_only_a_warning() {
    for (name, value, path, want) in [
        ("COMPLIANCE_POLICY", "fips-140-2", "/tunnel/tls/compliance", json!(null)),
        ("LOG_FORMAT", "JSON", "/process/log/format", json!("Plain")),
        ("AUTHZ_POLICY_INFO_LOGGING", "yes", "/process/log/policy_info", json!(false)),
    ] {
        let config = read(&[(name, value)]).unwrap();
        assert_eq!(at(&config, path), want, "{name}");
        let said = config.warnings[0].to_string();
        assert!(said.contains(&format!("{name}={value} (ignored: not ")), "{said}");
    }
}

#[test]
fn the_authority_does_not_follow_the_discovery_address() {
    let vars = [("PROXY_CONFIG", "discoveryAddress: mesh:1"), ("KUBERNETES_SERVICE_HOST", "x")];
    let config = read(&vars).unwrap();
    assert_eq!(at(&config, "/control/xds/upstream/address"), json!("https://mesh:1"));
    assert_eq!(at(&config, "/control/ca/upstream/address"), json!("https://istiod.istio-system.svc:15012"));
}
