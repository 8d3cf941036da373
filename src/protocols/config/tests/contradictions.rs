//! Settings that are right by themselves and not together.

use super::*;

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let names = |vars: &[(&str, &str)]| -> Vec<String> {
        read(vars).err().unwrap_or_default().into_iter().map(|i| i.name).collect()
    };
    let no_dns = ("ISTIO_META_DNS_CAPTURE", "false");
    assert_eq!(names(&[("XDS_ON_DEMAND", "true")]), ["XDS_ON_DEMAND"]);
    assert!(names(&[("XDS_ON_DEMAND", "true"), no_dns]).is_empty());
    assert_eq!(names(&[("ENABLE_PROXY", "false"), no_dns]), ["ENABLE_PROXY"]);
    assert_eq!(names(&[("LOCAL_XDS", "a"), ("LOCAL_XDS_PATH", "b")]), ["LOCAL_XDS_PATH"]);
    let required = ("WARREN_CRL_REQUIRED", "true");
    assert_eq!(names(&[required]), ["WARREN_CRL_REQUIRED"]);
    let config = read(&[required, ("CRL_PATH", "/exists")]).unwrap();
    assert!(config.tunnel.tls.crl_required);
    assert_eq!(names(&[("PROXY_CONFIG", "statsPort: 15000")]), ["PROXY_CONFIG"]);
    assert_eq!(names(&[("PROXY_CONFIG", "proxyAdminPort: 15021")]), ["PROXY_CONFIG"]);
}
