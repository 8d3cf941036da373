use super::*;

#[test]
fn missing_and_empty_values_are_unknown() {
    let mut labels = TrafficLabels::unknown(Reporter::Source);
    labels.source.workload = Some("");
    let values = labels.before_flag();
    assert_eq!(values.first(), Some(&"source"));
    assert_eq!(values.last(), Some(&"tcp"));
    assert!(values.iter().skip(1).take(19).all(|value| *value == UNKNOWN));
}

#[test]
fn values_stand_at_the_place_of_their_label() {
    let end = |at: &'static [&'static str; 10]| Endpoint {
        workload: Some(at[0]),
        canonical_service: Some(at[1]),
        canonical_revision: Some(at[2]),
        namespace: Some(at[3]),
        principal: Some(at[4]),
        app: Some(at[5]),
        version: Some(at[6]),
        cluster: Some(at[7]),
        region: Some(at[8]),
        zone: Some(at[9]),
    };
    let labels = TrafficLabels {
        reporter: Reporter::Destination,
        source: end(&["sw", "ss", "sr", "sn", "sp", "sa", "sv", "sc", "s-region", "s-zone"]),
        destination: end(&["dw", "ds", "dr", "dn", "dp", "da", "dv", "dc", "d-region", "d-zone"]),
        service: ServiceName { hostname: Some("host"), namespace: Some("hns"), name: Some("hname") },
        security: Security::MutualTls,
    };
    assert_eq!(
        TRAFFIC[FLAG_AT..],
        [
            "response_flags",
            "connection_security_policy",
            "source_region",
            "source_zone",
            "destination_region",
            "destination_zone"
        ]
    );
    let text: Vec<String> =
        TRAFFIC.iter().zip(labels.before_flag()).map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        text.join(" "),
        "reporter=destination source_workload=sw source_canonical_service=ss source_canonical_revision=sr \
             source_workload_namespace=sn source_principal=sp source_app=sa source_version=sv source_cluster=sc \
             destination_service=host destination_service_namespace=hns destination_service_name=hname \
             destination_workload=dw destination_canonical_service=ds destination_canonical_revision=dr \
             destination_workload_namespace=dn destination_principal=dp destination_app=da destination_version=dv \
             destination_cluster=dc request_protocol=tcp"
    );
    assert_eq!(labels.locality(), Some(["s-region", "s-zone", "d-region", "d-zone"]));
}

#[test]
fn locality_comes_with_the_data_of_a_workload() {
    let mut labels = TrafficLabels::unknown(Reporter::Source);
    assert_eq!(labels.locality(), None);
    labels.source.principal = Some("spiffe://td/ns/a/sa/b");
    assert_eq!(labels.locality(), None, "a certificate is no workload data");
    labels.destination.workload = Some("web");
    assert_eq!(labels.locality(), Some([UNKNOWN; 4]));
}
