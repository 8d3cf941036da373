//! The label set of the traffic metrics (docs/spec/controlplane.md 5.3).
//!
//! The data path fills borrowed values; nothing here allocates. Missing and empty values both read `unknown`: Kiali
//! skips a series that lacks a label.

/// The value of a label that is missing or empty.
pub const UNKNOWN: &str = "unknown";

/// All labels of a series, in the order of the contract.
pub const TRAFFIC: [&str; 27] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
];

/// The place of `response_flags` among [`TRAFFIC`]. Before it come the values of [`TrafficLabels::before_flag`], after
/// it those of [`TrafficLabels::security`] and [`TrafficLabels::locality`].
///
/// No limit: a place.
pub const FLAG_AT: usize = 21;

/// Which side of a connection this proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client is local, as for outbound and SOCKS5 connections.
    Source,
    /// The server is local, as for inbound connections.
    Destination,
}

/// Whether a connection crosses the network encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// HBONE.
    MutualTls,
    /// Any other transport.
    Unknown,
}

/// The known labels of one end of a connection. `None` and `Some("")` mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Name of the workload's owner (a deployment, say), not of the pod.
    pub workload: Option<&'a str>,
    /// `canonical_name` of the workload.
    pub canonical_service: Option<&'a str>,
    /// `canonical_revision` of the workload.
    pub canonical_revision: Option<&'a str>,
    /// Kubernetes namespace.
    pub namespace: Option<&'a str>,
    /// Full SPIFFE URI.
    pub principal: Option<&'a str>,
    /// The canonical service, or for values from baggage the workload's name.
    pub app: Option<&'a str>,
    /// The canonical revision.
    pub version: Option<&'a str>,
    /// Id of the cluster.
    pub cluster: Option<&'a str>,
    /// Region of the workload's locality.
    pub region: Option<&'a str>,
    /// Zone of the workload's locality.
    pub zone: Option<&'a str>,
}

/// The service the client meant to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceName<'a> {
    /// Its hostname.
    pub hostname: Option<&'a str>,
    /// Its namespace.
    pub namespace: Option<&'a str>,
    /// Its short name.
    pub name: Option<&'a str>,
}

/// All labels that tell traffic series apart, except the response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficLabels<'a> {
    /// The side that reports.
    pub reporter: Reporter,
    /// The client's end.
    pub source: Endpoint<'a>,
    /// The next hop: the workload, or its waypoint.
    pub destination: Endpoint<'a>,
    /// The service that the client meant.
    pub service: ServiceName<'a>,
    /// How the connection is secured.
    pub security: Security,
}

// === impl Reporter ===

impl Reporter {
    /// Value of the `reporter` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// Value of the access log's `direction` (docs/spec/controlplane.md 6.2).
    pub fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

// === impl Security ===

impl Security {
    /// Value of the `connection_security_policy` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => UNKNOWN,
        }
    }
}

// === impl Endpoint ===

impl<'a> Endpoint<'a> {
    /// Whether workload data is known. A principal alone, which TLS provides, is no workload data.
    pub fn is_known(&self) -> bool {
        [self.workload, self.canonical_service, self.namespace, self.cluster, self.region, self.zone]
            .into_iter()
            .flatten()
            .any(|value| !value.is_empty())
    }

    /// The eight values of this end that every series has, in label order.
    pub fn values(&self) -> [&'a str; 8] {
        [
            or_unknown(self.workload),
            or_unknown(self.canonical_service),
            or_unknown(self.canonical_revision),
            or_unknown(self.namespace),
            or_unknown(self.principal),
            or_unknown(self.app),
            or_unknown(self.version),
            or_unknown(self.cluster),
        ]
    }
}

// === impl TrafficLabels ===

impl<'a> TrafficLabels<'a> {
    /// Labels of a connection of which only the reporter is known.
    pub fn unknown(reporter: Reporter) -> Self {
        Self {
            reporter,
            source: Endpoint::default(),
            destination: Endpoint::default(),
            service: ServiceName::default(),
            security: Security::Unknown,
        }
    }

    /// Values of the labels before `response_flags`.
    pub fn before_flag(&self) -> [&'a str; 21] {
        let [a, b, c, d, e, f, g, h] = self.source.values();
        let [i, j, k, l, m, n, o, p] = self.destination.values();
        let host = or_unknown(self.service.hostname);
        let namespace = or_unknown(self.service.namespace);
        let name = or_unknown(self.service.name);
        let reporter = self.reporter.as_str();
        [reporter, a, b, c, d, e, f, g, h, host, namespace, name, i, j, k, l, m, n, o, p, "tcp"]
    }

    /// Values of the last four labels, or `None` when neither workload is known.
    pub fn locality(&self) -> Option<[&'a str; 4]> {
        (self.source.is_known() || self.destination.is_known()).then(|| {
            [
                or_unknown(self.source.region),
                or_unknown(self.source.zone),
                or_unknown(self.destination.region),
                or_unknown(self.destination.zone),
            ]
        })
    }
}

/// `value`, or `unknown` when it is missing or empty.
pub fn or_unknown(value: Option<&str>) -> &str {
    value.filter(|value| !value.is_empty()).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests;
