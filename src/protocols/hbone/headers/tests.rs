use super::*;
use proptest::prelude::*;

fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for value in values {
        map.append(name.clone(), HeaderValue::from_str(value).unwrap());
    }
    map
}

#[test]
fn baggage_goes_there_and_back() {
    let baggage = Baggage {
        cluster: "Kubernetes".into(),
        namespace: "ns".into(),
        workload: "web".into(),
        service: "web-svc".into(),
        revision: "v1".into(),
        region: "r".into(),
        zone: "z".into(),
    };
    let value = baggage.encode("deployment").unwrap();
    assert_eq!(
        value.to_str().unwrap(),
        "k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.deployment.name=web,service.name=web-svc,\
             service.version=v1,cloud.region=r,cloud.availability_zone=z"
    );
    assert_eq!(Baggage::parse(&headers(BAGGAGE, &[value.to_str().unwrap()])), Some(baggage));
    assert_eq!(Baggage::default().encode("pod"), None);
}

#[test]
fn baggage_lines_are_joined_and_unknown_parts_ignored() {
    for (lines, want) in [
        (&["k8s.pod.name=a", "service.name=b,x=y"][..], Some(("a", "b"))),
        (&["k8s.job.name=a=c,service.name"], Some(("a", ""))),
        (&["k8s.job.name="], Some(("", ""))),
        (&[" k8s.job.name=a"], None),
        (&[""], None),
        (&[], None),
    ] {
        let got = Baggage::parse(&headers(BAGGAGE, lines));
        assert_eq!(got.as_ref().map(|b| (b.workload.as_str(), b.service.as_str())), want, "{lines:?}");
    }
}

#[test]
fn forwarded_hosts() {
    let v6 = "[::1]:9".parse().unwrap();
    assert_eq!(forwarded(v6, None).unwrap(), "for=\"[::1]:9\"");
    assert_eq!(
        forwarded("1.2.3.4:5".parse().unwrap(), Some("web.ns")).unwrap(),
        "for=\"1.2.3.4:5\";host=web.ns"
    );
    for (line, want) in [
        ("for=\"1.2.3.4:5\";host=web.ns", Some("web.ns")),
        ("host=\"web.ns\"", Some("web.ns")),
        ("host=", None),
        ("Host=web", None),
        ("for=\"1.2.3.4\"", None),
    ] {
        assert_eq!(forwarded_host(&headers(FORWARDED, &[line])), want, "{line}");
    }
}

#[test]
fn trace_parents() {
    let mut rng = rand::rng();
    let random = TraceParent::random(&mut rng);
    let known = TraceParent { trace_id: 0xab << 120 | 0x10, span_id: 0x1f, sampled: true };
    assert_eq!(known.encode(), "00-ab000000000000000000000000000010-000000000000001f-01");
    assert_eq!(TraceParent::parse(&headers(TRACEPARENT, &[random.encode().to_str().unwrap()])), Some(random));
    for bad in ["", "00-0", &"0".repeat(55), "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        assert_eq!(TraceParent::parse(&headers(TRACEPARENT, &[bad])), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_header_panics(value in "[ -~]{0,80}") {
        let map = |name| headers(name, &[&value]);
        let _ = (Baggage::parse(&map(BAGGAGE)), TraceParent::parse(&map(TRACEPARENT)));
        let _ = forwarded_host(&map(FORWARDED));
    }
}
