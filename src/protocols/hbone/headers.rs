//! Headers of a CONNECT and of its answer (docs/spec/dataplane.md 2.3).

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngCore;

use crate::protocols::peer_text::{PeerHost, PeerLabel, PeerText};

/// `baggage`: the metadata of the sender's workload, for telemetry only.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// `forwarded`: the original client and, for a service, the name that the client asked for.
pub const FORWARDED: HeaderName = http::header::FORWARDED;
/// `traceparent`: W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `x-forwarded-network`: the network of the client, on the inner tunnel of a double HBONE.
pub const FORWARDED_NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");

/// Workload metadata as baggage carries it. An empty field is left out of the header, and a field that is longer than its
/// kind may be is cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// Cluster id.
    pub cluster: PeerText,
    /// Kubernetes namespace.
    pub namespace: PeerLabel,
    /// Name of the owning workload.
    pub workload: PeerHost,
    /// Canonical service.
    pub service: PeerHost,
    /// Canonical revision.
    pub revision: PeerLabel,
    /// Cloud region.
    pub region: PeerLabel,
    /// Cloud availability zone.
    pub zone: PeerLabel,
}

// === impl Baggage ===

impl Baggage {
    /// The header's value; `kind` is the lower-case workload type (`deployment`, `cronjob`, `pod`, `job`).
    /// The result is `None` if all fields are empty or if a value has characters that no header may carry.
    pub fn encode(&self, kind: &str) -> Option<HeaderValue> {
        let mut text = String::new();
        let workload = format!("k8s.{kind}.name");
        for (key, value) in [
            ("k8s.cluster.name", &*self.cluster),
            ("k8s.namespace.name", &*self.namespace),
            (workload.as_str(), &*self.workload),
            ("service.name", &*self.service),
            ("service.version", &*self.revision),
            ("cloud.region", &*self.region),
            ("cloud.availability_zone", &*self.zone),
        ] {
            if !value.is_empty() {
                // Writing to a String cannot fail.
                let _ = write!(text, "{}{key}={value}", if text.is_empty() { "" } else { "," });
            }
        }
        if text.is_empty() { None } else { HeaderValue::from_str(&text).ok() }
    }

    /// Reads all baggage lines of `headers`; unknown keys and unreadable lines are ignored.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        Self::from_lines(headers.get_all(BAGGAGE).into_iter().filter_map(|line| line.to_str().ok()))
    }

    /// Reads the text of one line.
    pub(crate) fn from_text(line: &str) -> Option<Self> {
        Self::from_lines(std::iter::once(line))
    }

    fn from_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut baggage = Self::default();
        let mut any = false;
        for part in lines.flat_map(|line| line.split(',')) {
            let mut fields = part.split('=');
            let (Some(key), Some(value)) = (fields.next(), fields.next()) else { continue };
            match key {
                "k8s.cluster.name" => baggage.cluster = value.into(),
                "k8s.namespace.name" => baggage.namespace = value.into(),
                "k8s.deployment.name" | "k8s.cronjob.name" | "k8s.pod.name" | "k8s.job.name" => {
                    baggage.workload = value.into();
                }
                "service.name" => baggage.service = value.into(),
                "service.version" => baggage.revision = value.into(),
                "cloud.region" => baggage.region = value.into(),
                "cloud.availability_zone" => baggage.zone = value.into(),
                _ => continue,
            }
            any = true;
        }
        any.then_some(baggage)
    }
}

/// The `forwarded` value of a connection from `client`, to the service `host` if it was addressed by one.
pub fn forwarded(client: std::net::SocketAddr, host: Option<&str>) -> Option<HeaderValue> {
    let text = match host {
        Some(host) => format!("for=\"{client}\";host={host}"),
        None => format!("for=\"{client}\""),
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    // A sensitive value stays out of HPACK's table, as in `TraceParent::encode`.
    value.set_sensitive(true);
    Some(value)
}

/// The `host=` of the first `forwarded` header, quotes stripped; `None` if absent, empty or not ASCII.
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let line = headers.get(FORWARDED)?.to_str().ok()?;
    let host = line.split([';', ',']).find_map(|part| part.trim().strip_prefix("host="))?;
    let host = host.strip_prefix('"').and_then(|h| h.strip_suffix('"')).unwrap_or(host);
    (!host.is_empty() && host.is_ascii()).then_some(host)
}

/// A connection's trace and span ids, for correlation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace id of 16 bytes.
    pub trace_id: u128,
    /// The span id of 8 bytes.
    pub span_id: u64,
    /// Whether the sender recorded its span.
    pub sampled: bool,
}

// === impl TraceParent ===

impl TraceParent {
    /// A trace context with random ids that is not sampled.
    pub fn random(rng: &mut impl RngCore) -> Self {
        let trace_id = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        Self { trace_id: trace_id.max(1), span_id: rng.next_u64().max(1), sampled: false }
    }

    /// The header's value. Trace ids never repeat, so the value is marked sensitive and stays out of HPACK's table,
    /// where it would displace values that do repeat.
    pub fn encode(self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let bytes = self.trace_id.to_be_bytes().into_iter().chain(self.span_id.to_be_bytes());
        let digits = bytes.flat_map(|byte| [byte >> 4, byte & 15]).chain([0, u8::from(self.sampled)]);
        let places = text.iter_mut().skip(3).filter(|place| **place != b'-');
        for (place, digit) in places.zip(digits) {
            *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
        let mut value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    /// Reads the header. The result is `None` unless the value is valid, of version 00 and 55 characters long.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        Self::from_text(headers.get(TRACEPARENT)?.to_str().ok()?)
    }

    /// Reads the text of the header, in the form of [`TraceParent::parse`].
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        if text.len() != 55 {
            return None;
        }
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|&id| id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|&id| id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests;
