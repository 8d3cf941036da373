//! What the exports to a collector have in common: where they go, and what waits for them.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use serde::{Serialize, Serializer};

use super::{reader::Reader, summary, value, var::Var};

/// Most attributes of the resource, and most headers.
/// Limit: headers for the collector, or attributes of the resource: 64; past it: the setting is refused.
pub(super) const PAIRS_MAX: usize = 64;
/// Longest timeout, delay and interval, in milliseconds.
/// Limit: a setting in milliseconds for exports: 600,000; past it: the setting is refused.
pub(super) const MILLIS_MAX: u64 = 600_000;
/// Longest queue, in spans or log records.
/// Limit: a setting of a queue or batch for exports: 1,000,000; past it: the setting is refused.
const QUEUE_MAX: usize = 1_000_000;

/// The destination of one kind of telemetry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectorConfig {
    /// The collector's address.
    pub endpoint: OtlpEndpoint,
    /// How the collector is spoken to.
    pub protocol: OtlpProtocol,
    /// Headers of each request. Their values are marked sensitive.
    #[serde(serialize_with = "summary::header_names")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// PEM file with the roots that the collector's certificate chains to; without one, the system's.
    pub roots: Option<String>,
    /// How long one request may take, with all its tries.
    #[serde(serialize_with = "summary::duration")]
    pub timeout: Duration,
}

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// The collector is reached by TLS.
    pub tls: bool,
    /// A DNS name or an IP address without brackets.
    pub host: String,
    /// The TCP port.
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

/// The queue of the exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExportQueue {
    /// Spans or log records that may wait.
    pub items: usize,
    /// Spans or log records of one request.
    pub batch: usize,
    /// How long spans or log records gather before a request is made.
    #[serde(serialize_with = "summary::duration")]
    pub delay: Duration,
}

/// The variables of one kind of telemetry.
pub(super) struct Names {
    pub(super) exporter: Var,
    /// The name of an exporter that is accepted without effect, because that exporter is always on.
    pub(super) always: &'static str,
    /// What a collector's path ends in where only its base is given (the OTLP specification, "Endpoint URLs for
    /// OTLP/HTTP").
    pub(super) path: &'static str,
    pub(super) collector: CollectorVars,
}

/// The variables of a collector, of one kind of telemetry or of all.
pub(super) struct CollectorVars {
    endpoint: Var,
    protocol: Var,
    headers: Var,
    certificate: Var,
    timeout: Var,
    compression: Var,
    client_key: Var,
}

/// The variables of a queue.
pub(super) struct QueueVars {
    /// How many items may wait.
    pub(super) items: Var,
    /// A request's length.
    pub(super) batch: Var,
    /// How long items gather.
    pub(super) delay: Var,
}

/// The variables for all kinds of telemetry.
static ALL: CollectorVars = CollectorVars::new([
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
]);

const SERVICE_NAME: Var = Var::text("OTEL_SERVICE_NAME", "warren", "`service.name` of the resource.");
const RESOURCE: Var = Var::new(
    "OTEL_RESOURCE_ATTRIBUTES",
    "`key=value,…`, values percent-encoded",
    "",
    "The resource, beside `service.version`, `k8s.cluster.name`, `k8s.node.name`, `k8s.namespace.name` and \
     `k8s.pod.name`.",
);

// === impl CollectorVars ===

impl CollectorVars {
    /// The variables of these names: endpoint, protocol, headers, certificate, timeout, compression, client key.
    pub(super) const fn new(
        [endpoint, protocol, headers, certificate, timeout, compression, client_key]: [&'static str; 7],
    ) -> Self {
        Self {
            endpoint: Var::new(
                endpoint,
                "`http://` or `https://` address",
                "",
                "The collector; what is for one kind of telemetry counts before what is for all. For HTTP, that for all \
                 gets `/v1/traces`, `/v1/logs` or `/v1/metrics` appended. Without one nothing is exported.",
            ),
            protocol: Var::new(
                protocol,
                "`http/protobuf` or `grpc`",
                "http/protobuf",
                "How the collector is spoken to.",
            ),
            headers: Var::new(
                headers,
                "`key=value,…`, values percent-encoded",
                "",
                "Headers of each request.",
            ),
            certificate: Var::new(
                certificate,
                "path",
                "the system's roots",
                "A PEM file with the roots of the collector's certificate.",
            ),
            timeout: Var::new(
                timeout,
                "milliseconds",
                "10000",
                "How long one request may take, with all its tries.",
            ),
            compression: Var::text(compression, "", "Refused: requests are not compressed."),
            client_key: Var::text(client_key, "", "Refused: no certificate is shown to collectors."),
        }
    }
}

// === impl CollectorConfig ===

impl CollectorConfig {
    pub(super) fn read(r: &mut Reader<'_>, names: &'static Names) -> Option<Self> {
        let vars = &names.collector;
        let protocol = protocol(r, vars);
        let (headers, roots, timeout) = (headers(r, vars), roots(r, vars), timeout(r, vars));
        unsupported(r, vars);
        let endpoint = OtlpEndpoint::read(r, protocol, names)?;
        Some(Self { endpoint, protocol, headers, roots, timeout })
    }
}

/// The value for one kind of telemetry, else the one for all; both are looked at.
fn either<'a, T>(
    r: &mut Reader<'a>,
    own: &'static Var,
    all: &'static Var,
    parse: impl Fn(&'a str) -> Result<T, String>,
) -> Option<T> {
    let first = r.parse(own, &parse);
    let second = r.parse(all, &parse);
    first.or(second)
}

fn protocol(r: &mut Reader<'_>, vars: &'static CollectorVars) -> OtlpProtocol {
    let protocol = either(r, &vars.protocol, &ALL.protocol, |name| match name {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::Http),
        _ => Err("not grpc or http/protobuf".into()),
    });
    protocol.unwrap_or(OtlpProtocol::Http)
}

fn timeout(r: &mut Reader<'_>, vars: &'static CollectorVars) -> Duration {
    let parse = |text: &str| value::number(text, &(1..=MILLIS_MAX));
    let own = r.parse(&vars.timeout, parse);
    let all = r.parse_or_default(&ALL.timeout, parse);
    Duration::from_millis(own.or(all).unwrap_or_default())
}

fn roots(r: &mut Reader<'_>, vars: &'static CollectorVars) -> Option<String> {
    either(r, &vars.certificate, &ALL.certificate, |path| Ok(path.to_owned()))
}

fn headers(r: &mut Reader<'_>, vars: &'static CollectorVars) -> Vec<(HeaderName, HeaderValue)> {
    let parse = |text| {
        let usable = |(name, value): (String, String)| {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a name is no header's".to_owned());
            let value = HeaderValue::from_str(&value).map_err(|_| "a value is no header's".to_owned());
            name.and_then(|name| value.map(|value| (name, sensitive(value))))
        };
        pairs(text)?.into_iter().map(usable).collect::<Result<Vec<_>, _>>()
    };
    let first = r.parse_secret(&vars.headers, parse);
    let second = r.parse_secret(&ALL.headers, parse);
    first.or(second).unwrap_or_default()
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

pub(super) fn resource(r: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut resource = r.parse(&RESOURCE, pairs).unwrap_or_default();
    if let Some(name) = r.text(&SERVICE_NAME) {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".into(), name.into()));
    }
    resource
}

/// Refuses settings that would otherwise be ignored in silence.
fn unsupported(r: &mut Reader<'_>, vars: &'static CollectorVars) {
    for var in [&vars.compression, &ALL.compression] {
        r.parse(var, |_| Err::<(), _>("requests are not compressed: leave it unset".into()));
    }
    for var in [&vars.client_key, &ALL.client_key] {
        r.parse(var, |_| Err::<(), _>("no certificate is shown to collectors: leave it unset".into()));
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
    fn read(r: &mut Reader<'_>, protocol: OtlpProtocol, names: &'static Names) -> Option<Self> {
        let parse = |base| {
            move |text: &str| {
                let endpoint = Self::parse(text)?;
                match protocol {
                    OtlpProtocol::Grpc if endpoint.path != "/" => Err("gRPC has no path".to_owned()),
                    OtlpProtocol::Http if base => Ok(endpoint.below(names.path)),
                    _ => Ok(endpoint),
                }
            }
        };
        let own = r.parse(&names.collector.endpoint, parse(false));
        let base = r.parse(&ALL.endpoint, parse(true));
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

// === impl ExportQueue ===

impl ExportQueue {
    pub(super) fn read(r: &mut Reader<'_>, vars: &'static QueueVars) -> Self {
        let mut length = |var| r.parse_or_default(var, |text| value::number(text, &(1..=QUEUE_MAX)));
        let (items, batch) = (length(&vars.items).unwrap_or(1), length(&vars.batch).unwrap_or(1));
        let delay = r.parse_or_default(&vars.delay, |text| value::number(text, &(1..=MILLIS_MAX)));
        let delay = Duration::from_millis(delay.unwrap_or_default());
        Self { items, batch: batch.min(items), delay }
    }
}
