//! Whether and how traces are exported: the environment variables of the OpenTelemetry specification. It leaves the
//! endpoint at a default of its own; here no endpoint means no traces.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use serde::{Serialize, Serializer};

use super::{reader::Reader, summary, value};

/// Most attributes of the resource, and most headers.
const PAIRS_MAX: usize = 64;
/// Longest timeout and delay, in milliseconds.
const MILLIS_MAX: u64 = 600_000;
/// Longest queue, in spans.
const QUEUE_MAX: u64 = 1_000_000;
/// What a collector's path ends in where only its base is given (the OTLP specification, "Endpoint URLs for OTLP/HTTP").
const SIGNAL_PATH: &str = "v1/traces";

/// How traces are exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceConfig {
    /// Where to.
    pub endpoint: OtlpEndpoint,
    /// How the collector is spoken to.
    pub protocol: OtlpProtocol,
    /// Headers of each request. Their values are marked sensitive.
    #[serde(serialize_with = "summary::header_names")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// PEM file with the roots that the collector's certificate chains to; without one, the system's.
    pub roots: Option<String>,
    /// How long one request may take.
    #[serde(serialize_with = "summary::duration")]
    pub timeout: Duration,
    /// Which traces are exported.
    pub sampling: Sampling,
    /// What waits for the exporter.
    pub queue: TraceQueue,
    /// What the resource holds besides what is known of the node.
    pub resource: Vec<(String, String)>,
}

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Whether it is reached by TLS.
    pub tls: bool,
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path of requests; `/` for gRPC.
    pub path: String,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// A trace that was begun elsewhere is exported if its beginning was.
    pub parent_based: bool,
    /// Share of the others, from 0 to 1.
    pub ratio: f64,
}

/// What waits for the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TraceQueue {
    /// Spans that may wait.
    pub spans: usize,
    /// Spans of one request.
    pub batch: usize,
    /// How long they gather.
    #[serde(serialize_with = "summary::duration")]
    pub delay: Duration,
}

// === impl TraceConfig ===

impl TraceConfig {
    /// Reads all variables, so that each bad one is heard of even if no traces are exported.
    pub(super) fn read(r: &mut Reader<'_>) -> Option<Self> {
        let disabled = r.boolean("OTEL_SDK_DISABLED", false);
        let exporter = r.parse("OTEL_TRACES_EXPORTER", |name| match name {
            "otlp" => Ok(true),
            "none" => Ok(false),
            _ => Err("not otlp or none".into()),
        });
        for (name, signal) in [("OTEL_METRICS_EXPORTER", "metrics"), ("OTEL_LOGS_EXPORTER", "logs")] {
            if let Some(value) = r.text(name).filter(|value| *value != "none") {
                r.warn(name, value, format!("ignored: {signal} are not exported by this version"));
            }
        }
        propagators(r);
        unsupported(r);
        let protocol = protocol(r);
        let config = Self {
            endpoint: OtlpEndpoint::none(),
            protocol,
            headers: headers(r),
            roots: roots(r),
            timeout: timeout(r),
            sampling: Sampling::read(r),
            queue: TraceQueue::read(r),
            resource: resource(r),
        };
        let endpoint = OtlpEndpoint::read(r, protocol)?;
        (exporter.unwrap_or(true) && !disabled).then_some(Self { endpoint, ..config })
    }
}

/// The value for traces, else the one for all signals; both are looked at.
fn either<'a, T>(
    r: &mut Reader<'a>,
    (own, all): (&str, &str),
    parse: impl Fn(&'a str) -> Result<T, String>,
) -> Option<T> {
    let first = r.parse(own, &parse);
    let second = r.parse(all, &parse);
    first.or(second)
}

fn protocol(r: &mut Reader<'_>) -> OtlpProtocol {
    let names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
    let protocol = either(r, names, |name| match name {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::Http),
        _ => Err("not grpc or http/protobuf".into()),
    });
    protocol.unwrap_or(OtlpProtocol::Http)
}

fn timeout(r: &mut Reader<'_>) -> Duration {
    let names = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
    let millis = either(r, names, |text| value::number(text, &(1..=MILLIS_MAX)));
    Duration::from_millis(millis.unwrap_or(10_000))
}

fn roots(r: &mut Reader<'_>) -> Option<String> {
    let names = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
    either(r, names, |path| Ok(path.to_owned()))
}

fn headers(r: &mut Reader<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let parse = |text| {
        let usable = |(name, value): (String, String)| {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a name is no header's".to_owned());
            let value = HeaderValue::from_str(&value).map_err(|_| "a value is no header's".to_owned());
            name.and_then(|name| value.map(|value| (name, sensitive(value))))
        };
        pairs(text)?.into_iter().map(usable).collect::<Result<Vec<_>, _>>()
    };
    let first = r.parse_secret("OTEL_EXPORTER_OTLP_TRACES_HEADERS", parse);
    let second = r.parse_secret("OTEL_EXPORTER_OTLP_HEADERS", parse);
    first.or(second).unwrap_or_default()
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn resource(r: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut resource = r.parse("OTEL_RESOURCE_ATTRIBUTES", pairs).unwrap_or_default();
    if let Some(name) = r.text("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".into(), name.into()));
    }
    resource
}

/// The context goes in `traceparent`, or nowhere.
fn propagators(r: &mut Reader<'_>) {
    let known = |list: &str| list.split(',').any(|name| name.trim() == "tracecontext");
    r.parse("OTEL_PROPAGATORS", |list| {
        if known(list) { Ok(()) } else { Err("tracecontext is the only one, and always on".into()) }
    });
}

/// Settings that would be passed over in silence.
fn unsupported(r: &mut Reader<'_>) {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"] {
        r.parse(name, |_| Err::<(), _>("requests are not compressed: leave it unset".into()));
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"] {
        r.parse(name, |_| Err::<(), _>("no certificate is shown to collectors: leave it unset".into()));
    }
}

/// `key=value,key=value`, values percent-encoded (the specification's baggage format, without properties).
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > PAIRS_MAX {
        return Err(format!("more than {PAIRS_MAX} parts"));
    }
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').ok_or("a part is not key=value")?;
        let (key, value) = (key.trim(), decoded(value.trim()).ok_or("a value is not percent-encoded text")?);
        if key.is_empty() { Err("a part has no key".to_owned()) } else { Ok((key.to_owned(), value)) }
    };
    parts.into_iter().map(pair).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

// === impl OtlpEndpoint ===

impl OtlpEndpoint {
    fn none() -> Self {
        Self { tls: false, host: String::new(), port: 0, path: String::new() }
    }

    fn read(r: &mut Reader<'_>, protocol: OtlpProtocol) -> Option<Self> {
        let parse = |base| {
            move |text: &str| {
                let endpoint = Self::parse(text)?;
                match protocol {
                    OtlpProtocol::Grpc if endpoint.path != "/" => Err("gRPC has no path".to_owned()),
                    OtlpProtocol::Http if base => Ok(endpoint.below(SIGNAL_PATH)),
                    _ => Ok(endpoint),
                }
            }
        };
        let own = r.parse("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", parse(false));
        let base = r.parse("OTEL_EXPORTER_OTLP_ENDPOINT", parse(true));
        own.or(base)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("not an address: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("does not begin with http:// or https://".into()),
        };
        if uri.query().is_some() {
            return Err("an endpoint has no query".into());
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().unwrap_or_default();
        let port = match authority.strip_prefix(host) {
            None => return Err("an endpoint has no user".into()),
            Some("") => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => value::number(port.strip_prefix(':').unwrap_or(port), &(1..=u16::MAX))
                .map_err(|reason| format!("its port is {reason}"))?,
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err("has no host".into());
        }
        Ok(Self { tls, host: host.to_owned(), port, path: uri.path().to_owned() })
    }

    fn below(mut self, path: &str) -> Self {
        self.path = format!("{}/{path}", self.path.trim_end_matches('/'));
        self
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = if self.path == "/" { "" } else { &self.path };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

impl Serialize for OtlpEndpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Sampling ===

impl Sampling {
    fn read(r: &mut Reader<'_>) -> Self {
        let share = r.parse("OTEL_TRACES_SAMPLER_ARG", |text| {
            let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| "not a number from 0 to 1".to_owned())
        });
        let share = share.unwrap_or(1.0);
        let sampling = r.parse("OTEL_TRACES_SAMPLER", |name| {
            let (parent_based, root) =
                name.strip_prefix("parentbased_").map_or((false, name), |root| (true, root));
            let ratio = match root {
                "always_on" => 1.0,
                "always_off" => 0.0,
                "traceidratio" => share,
                _ => {
                    return Err(
                        "not always_on, always_off or traceidratio, with or without parentbased_".into()
                    );
                }
            };
            Ok(Self { parent_based, ratio })
        });
        sampling.unwrap_or(Self { parent_based: true, ratio: 1.0 })
    }

    /// Whether traces that are not exported are kept until it is known that they did not fail. Who switches traces off
    /// wants none.
    pub fn keeps_failed(self) -> bool {
        self.ratio > 0.0
    }
}

// === impl TraceQueue ===

impl TraceQueue {
    fn read(r: &mut Reader<'_>) -> Self {
        let mut number = |name, most: u64| r.parse(name, |text| value::number(text, &(1..=most)));
        let mut spans =
            |name, default| number(name, QUEUE_MAX).and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
        let queue = Self {
            spans: spans("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
            batch: spans("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", MILLIS_MAX).unwrap_or(5000)),
        };
        Self { batch: queue.batch.min(queue.spans), ..queue }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocols::config::{Inputs, Invalid};

    fn read(vars: &[(&str, &str)]) -> Result<(Option<TraceConfig>, Vec<Invalid>), Vec<Invalid>> {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let inputs = Inputs {
            vars: &vars,
            mesh_file: None,
            cores: 1,
            file_exists: &|_| false,
            fake_ca_allowed: false,
        };
        let mut r = Reader::new(&inputs);
        let config = TraceConfig::read(&mut r);
        r.finish().map(|warnings| (config, warnings))
    }

    fn config(vars: &[(&str, &str)]) -> Option<TraceConfig> {
        read(vars).unwrap_or_else(|invalid| panic!("{vars:?}: {invalid:?}")).0
    }

    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
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
            assert_eq!(config(vars), None, "{vars:?}");
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
            let endpoint = config(vars).unwrap().endpoint;
            assert_eq!(endpoint.to_string(), want, "{vars:?}");
        }
        assert!(read(&[(ALL, "http://c/path"), grpc]).is_err());
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let config = config(&[(ALL, "http://c")]).unwrap();
        assert_eq!(config.protocol, OtlpProtocol::Http);
        assert_eq!(config.timeout, Duration::from_secs(10));
        assert_eq!(config.sampling, Sampling { parent_based: true, ratio: 1.0 });
        let queue = TraceQueue { spans: 2048, batch: 512, delay: Duration::from_secs(5) };
        assert_eq!((config.queue, config.headers.len(), config.resource.len()), (queue, 0, 0));
    }

    #[test]
    fn samplers_by_name() {
        for (name, parent_based, ratio) in [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_always_on", true, 1.0),
            ("parentbased_always_off", true, 0.0),
            ("parentbased_traceidratio", true, 0.25),
        ] {
            let vars =
                [(ALL, "http://c"), ("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
            assert_eq!(config(&vars).unwrap().sampling, Sampling { parent_based, ratio }, "{name}");
        }
    }

    #[test]
    fn pairs_are_decoded_and_those_for_traces_win() {
        let config = config(&[
            (ALL, "http://c"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=1, b=x%20%3d%c3%a9 ,service.name=no"),
            ("OTEL_SERVICE_NAME", "mesh"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=no"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20t"),
        ])
        .unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(config.resource, [pair("a", "1"), pair("b", "x =é"), pair("service.name", "mesh")]);
        let [(name, value)] = config.headers.as_slice() else { panic!("{:?}", config.headers) };
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
    fn signals_that_are_not_exported_are_warned_of() {
        let (_, warnings) =
            read(&[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_LOGS_EXPORTER", "none")]).unwrap();
        assert_eq!(warnings.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["OTEL_METRICS_EXPORTER"]);
    }
}
