use std::collections::BTreeMap;

use super::*;
use crate::protocols::config::{
    Inputs, Invalid,
    otlp::{OtlpProtocol, PAIRS_MAX},
};

fn read(vars: &[(&str, &str)]) -> Result<(OtlpConfig, Vec<Invalid>), Vec<Invalid>> {
    let vars: BTreeMap<String, String> =
        vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let inputs = Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed: false,
    };
    let mut r = Reader::new(&inputs);
    let config = OtlpConfig::read(&mut r);
    r.finish().map(|warnings| (config, warnings))
}

fn config(vars: &[(&str, &str)]) -> OtlpConfig {
    read(vars).unwrap_or_else(|invalid| panic!("{vars:?}: {invalid:?}")).0
}

const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const LOGS_TOO: (&str, &str) = ("OTEL_LOGS_EXPORTER", "otlp");
const METRICS_TOO: (&str, &str) = ("OTEL_METRICS_EXPORTER", "otlp");
const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

#[test]
fn without_an_endpoint_or_when_told_so_there_are_no_traces() {
    for vars in [
        &[][..],
        &[(ALL, "")],
        &[("OTEL_TRACES_SAMPLER", "always_on")],
        &[(ALL, "http://c"), ("OTEL_TRACES_EXPORTER", "none")],
        &[(ALL, "http://c"), ("OTEL_SDK_DISABLED", "true")],
    ] {
        assert_eq!(config(vars).traces, None, "{vars:?}");
    }
}

#[test]
fn the_endpoint_for_traces_is_taken_as_it_is_and_the_other_is_a_base() {
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    for (vars, want) in [
        (&[(ALL, "http://c:4318")][..], "http://c:4318/v1/traces"),
        (&[(ALL, "https://c/base/")], "https://c:443/base/v1/traces"),
        (&[(OWN, "http://c")], "http://c:80"),
        (&[(OWN, "http://[::1]:1/x"), (ALL, "http://d")], "http://[::1]:1/x"),
        (&[(ALL, "http://c:4317"), grpc], "http://c:4317"),
    ] {
        let endpoint = config(vars).traces.unwrap().collector.endpoint;
        assert_eq!(endpoint.to_string(), want, "{vars:?}");
    }
    assert!(read(&[(ALL, "http://c/path"), grpc]).is_err());
}

#[test]
fn defaults_are_those_of_the_specification() {
    let config = config(&[(ALL, "http://c"), LOGS_TOO, METRICS_TOO]);
    let (traces, logs, metrics) = (config.traces.unwrap(), config.logs.unwrap(), config.metrics.unwrap());
    for collector in [&traces.collector, &logs.collector, &metrics.collector] {
        assert_eq!(collector.protocol, OtlpProtocol::Http);
        assert_eq!((collector.timeout, collector.headers.len()), (Duration::from_secs(10), 0));
    }
    assert_eq!(traces.sampling, Sampling { parent_based: true, ratio: 1.0 });
    let queue = |secs| ExportQueue { items: 2048, batch: 512, delay: Duration::from_secs(secs) };
    assert_eq!((traces.queue, logs.queue), (queue(5), queue(1)));
    assert_eq!((metrics.interval, metrics.timeout), (Duration::from_secs(60), Duration::from_secs(30)));
    assert_eq!(config.resource, []);
}

#[test]
fn pairs_are_decoded_and_those_for_traces_win() {
    let config = config(&[
        (ALL, "http://c"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1, b=x%20%3d%c3%a9 ,service.name=no"),
        ("OTEL_SERVICE_NAME", "mesh"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=no"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20t"),
    ]);
    let headers = &config.traces.as_ref().unwrap().collector.headers;
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(config.resource, [pair("a", "1"), pair("b", "x =é"), pair("service.name", "mesh")]);
    let [(name, value)] = headers.as_slice() else { panic!("{:?}", headers) };
    assert_eq!(
        (name.as_str(), value.as_bytes(), value.is_sensitive()),
        ("authorization", &b"Bearer t"[..], true)
    );
}

#[test]
fn a_bad_header_is_named_and_not_shown() {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"] {
        for value in ["secret", "a b=secret", "a=secret%0a"] {
            let invalid = read(&[(name, value)]).unwrap_err();
            assert!(invalid[0].name == name && !format!("{invalid:?}").contains("secret"), "{invalid:?}");
        }
    }
    let many: Vec<String> = (0..=PAIRS_MAX).map(|n| format!("a{n}=b")).collect();
    assert!(read(&[("OTEL_RESOURCE_ATTRIBUTES", &many.join(","))]).is_err());
}

#[test]
fn logs_and_metrics_are_exported_where_they_are_asked_for() {
    let exported = |vars: &[(&str, &str)]| {
        let config = config(&[vars, &[(ALL, "http://c")]].concat());
        (config.traces.is_some(), config.logs.is_some(), config.metrics.is_some())
    };
    for (vars, want) in [
        (&[][..], (true, false, false)),
        (&[LOGS_TOO], (true, true, false)),
        (&[METRICS_TOO, ("OTEL_TRACES_EXPORTER", "none")], (false, false, true)),
        (
            &[("OTEL_LOGS_EXPORTER", "console, otlp"), ("OTEL_METRICS_EXPORTER", "prometheus")],
            (true, true, false),
        ),
        (&[LOGS_TOO, METRICS_TOO, ("OTEL_SDK_DISABLED", "true")], (false, false, false)),
    ] {
        assert_eq!(exported(vars), want, "{vars:?}");
    }
    let own = config(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c/x"), LOGS_TOO, METRICS_TOO]);
    assert_eq!(own.logs.unwrap().collector.endpoint.to_string(), "http://c:80/x");
    assert_eq!((own.traces, own.metrics), (None, None));
}

#[test]
fn each_kind_has_its_own_path_and_settings() {
    let config = config(&[
        (ALL, "http://c:1"),
        LOGS_TOO,
        METRICS_TOO,
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "7"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "3"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ]);
    let (logs, metrics) = (config.logs.unwrap(), config.metrics.unwrap());
    assert_eq!(logs.collector.endpoint.to_string(), "http://c:1");
    assert_eq!((logs.collector.protocol, logs.queue.batch), (OtlpProtocol::Grpc, 3));
    assert_eq!(metrics.collector.endpoint.to_string(), "http://c:1/v1/metrics");
    let millis = [logs.collector.timeout, metrics.collector.timeout, metrics.interval];
    assert_eq!(millis.map(|d| d.as_millis()), [5, 7, 100]);
}

#[test]
fn an_export_without_an_endpoint_is_warned_of() {
    let (_, warnings) = read(&[METRICS_TOO, ("OTEL_LOGS_EXPORTER", "none")]).unwrap();
    assert_eq!(warnings.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["OTEL_METRICS_EXPORTER"]);
}
