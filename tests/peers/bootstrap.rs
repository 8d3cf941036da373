//! Configurations of Envoy, as istiod has them for waypoints and gateways, with what a stock Envoy offers.

use serde_json::{Map, Value, json};

use crate::{
    envoy::id,
    parts::{
        DESTINATION, cluster, destination_of_connection, destination_of_request, endpoint, http2, internal,
        internal_address, manager, router, socket, take_destination, tcp_proxy, tunneling_proxy, typed,
    },
};

/// Where the administration interface listens, in the pod alone.
pub(crate) const ADMIN_PORT: u16 = 15000;
/// Any IP address, IPv4 alone.
const ANY: &str = "0.0.0.0";
/// The internal listeners of a waypoint: what came by a tunnel, and what leaves by one.
const ARRIVED: &str = "arrived";
const LEAVES: &str = "leaves";

/// The static configuration of the Envoy of one pod.
pub(crate) struct Bootstrap {
    /// The directory and name of the files of the certificate.
    files: String,
    /// What the end of tunnels has besides.
    limits: Map<String, Value>,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

/// One side of mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A route of CONNECT requests: those for `authority`, or all others for `*`.
pub(crate) struct Connect<'a> {
    pub authority: &'a str,
    pub action: Action<'a>,
}

/// What comes of a CONNECT request.
pub(crate) enum Action<'a> {
    /// The stream goes to a cluster.
    To(&'a str),
    /// The request is answered with this status.
    Answer(u16),
}

/// A destination that a waypoint serves besides passing connections on: a virtual address.
pub(crate) struct Virtual<'a> {
    pub ip: &'a str,
    pub port: u16,
    /// The endpoint's `ip:port`.
    pub endpoint: &'a str,
    /// Whether requests of HTTP are told apart.
    pub is_http: bool,
}

// === impl Bootstrap ===

impl Bootstrap {
    /// Of the pod with this name, whose certificate is in `directory`.
    pub(crate) fn new(directory: &std::path::Path, pod: &str) -> Self {
        let files = directory.join(pod).to_string_lossy().into_owned();
        Self { files, limits: Map::new(), listeners: Vec::new(), clusters: Vec::new() }
    }

    pub(crate) fn to_json(&self) -> Value {
        let internal = "extensions.bootstrap.internal_listener.v3.InternalListener";
        json!({
            "admin": {"address": socket("127.0.0.1", ADMIN_PORT)},
            "bootstrap_extensions": [typed("internal", internal, json!({}))],
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters},
        })
    }

    /// Mutual TLS 1.3 of HBONE. A client takes the servers of these identities alone, a server any of the mesh.
    fn tls(&self, side: Side, peers: &[&str]) -> Value {
        let name = |name: &&str| json!({"san_type": "URI", "matcher": {"exact": id(name)}});
        let any = || vec![json!({"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}})];
        let names = if peers.is_empty() { any() } else { peers.iter().map(name).collect() };
        let file = |ending: &str| json!({"filename": format!("{}.{ending}", self.files)});
        let common = json!({
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": file("crt"), "private_key": file("key")}],
            "validation_context": {"trusted_ca": file("ca"), "match_typed_subject_alt_names": names},
        });
        let (of, config) = match side {
            Side::Client => ("UpstreamTlsContext", json!({"common_tls_context": common})),
            Side::Server => (
                "DownstreamTlsContext",
                json!({"common_tls_context": common, "require_client_certificate": true}),
            ),
        };
        typed("tls", &format!("extensions.transport_sockets.tls.v3.{of}"), config)
    }

    /// Adds `limits` to the HTTP connection manager that ends tunnels, which is configured later.
    pub(crate) fn limited(mut self, limits: &[(&str, Value)]) -> Self {
        self.limits = limits.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self
    }

    fn listener(mut self, name: &str, mut listener: Value) -> Self {
        listener["name"] = name.into();
        self.listeners.push(listener);
        self
    }

    fn with(mut self, cluster: Value) -> Self {
        self.clusters.push(cluster);
        self
    }

    /// Makes a tunnel to `authority` of each connection to 127.0.0.1:`port`, by `cluster`.
    pub(crate) fn tunnels(self, port: u16, cluster: &str, authority: &str, headers: &[(&str, &str)]) -> Self {
        let name = format!("to-{authority}");
        let filter = tunneling_proxy(&name, cluster, authority, headers);
        let address = socket("127.0.0.1", port);
        self.listener(&name, json!({"address": address, "filter_chains": [{"filters": [filter]}]}))
    }

    /// Passes the connections to `port` on to `cluster`.
    pub(crate) fn passes_on(self, port: u16, cluster: &str) -> Self {
        let chain = json!({"filters": [tcp_proxy("plain", cluster)]});
        self.listener("plain", json!({"address": socket(ANY, port), "filter_chains": [chain]}))
    }

    /// A cluster of addresses that are reached as they are.
    pub(crate) fn plain(self, name: &str, endpoints: &[(&str, u16)]) -> Self {
        let endpoints: Vec<Value> = endpoints.iter().map(|(ip, port)| endpoint(&socket(ip, *port))).collect();
        self.with(cluster(name, &endpoints))
    }

    /// A cluster of HBONE listeners of the identity `peer`.
    pub(crate) fn hbone(self, name: &str, (ip, port): (&str, u16), peer: &str) -> Self {
        let cluster = cluster(name, &[endpoint(&socket(ip, port))]);
        let cluster = self.in_tunnels(cluster, &[peer]);
        self.with(cluster)
    }

    /// A cluster of HBONE inside the HBONE of the cluster `outer`, with `authority` for both tunnels. The inner TLS is
    /// that of the identity `peer`.
    pub(crate) fn double_hbone(self, name: &str, (outer, authority): (&str, &str), peer: &str) -> Self {
        let listener = format!("{name}-outer");
        let filter = tunneling_proxy(&listener, outer, authority, &[("x-istio-source", "gateway")]);
        let cluster = cluster(name, &[endpoint(&internal_address(&listener, name))]);
        let cluster = self.in_tunnels(cluster, &[peer]);
        let listening = json!({"internal_listener": {}, "filter_chains": [{"filters": [filter]}]});
        self.with(cluster).listener(&listener, listening)
    }

    /// Makes the connections of `cluster` streams of HTTP/2 by mutual TLS.
    fn in_tunnels(&self, mut cluster: Value, peers: &[&str]) -> Value {
        let of = "extensions.upstreams.http.v3.HttpProtocolOptions";
        let options = json!({
            "@type": format!("type.googleapis.com/envoy.{of}"),
            "explicit_http_config": {"http2_protocol_options": http2()},
        });
        cluster["typed_extension_protocol_options"] =
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
        cluster["transport_socket"] = self.tls(Side::Client, peers);
        cluster
    }

    /// Ends tunnels on port 15008, of any client of the mesh or of `clients` alone.
    pub(crate) fn ends_tunnels(self, clients: &[&str], routes: &[Connect<'_>]) -> Self {
        self.ends(clients, routes, &[router()], &[])
    }

    fn ends(
        self,
        clients: &[&str],
        routes: &[Connect<'_>],
        filters: &[Value],
        answer: &[(&str, &str)],
    ) -> Self {
        let hosts: Vec<Value> = routes.iter().map(Connect::host).collect();
        let header = |(key, value): &(&str, &str)| json!({"header": {"key": key, "value": value}});
        let answer: Vec<Value> = answer.iter().map(header).collect();
        let mut http2 = http2();
        http2["max_concurrent_streams"] = 100.into();
        let mut manager = manager(
            "hbone",
            json!({
                "codec_type": "HTTP2",
                "http2_protocol_options": http2,
                "stream_idle_timeout": "0s",
                "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                "http_filters": filters,
                "route_config": {"virtual_hosts": hosts, "response_headers_to_add": answer},
            }),
        );
        for (name, value) in &self.limits {
            manager["typed_config"][name] = value.clone();
        }
        let chain = json!({"transport_socket": self.tls(Side::Server, clients), "filters": [manager]});
        self.listener("hbone", json!({"address": socket(ANY, 15008), "filter_chains": [chain]}))
    }

    /// Ends tunnels as an application's own HBONE, with `baggage` in its answers.
    pub(crate) fn ends_tunnels_telling(self, baggage: &str, routes: &[Connect<'_>]) -> Self {
        self.ends(&[], routes, &[router()], &[("baggage", baggage)])
    }

    /// A waypoint that ends tunnels itself: it passes on to whatever the client asks for, by tunnels of its own. It
    /// serves `named`, which clients on other networks ask for by `host:port`, and the virtual addresses.
    pub(crate) fn waypoint(self, named: &[(&str, &str)], addresses: &[Virtual<'_>]) -> Self {
        let mut routes: Vec<Connect<'_>> = named
            .iter()
            .map(|(authority, cluster)| Connect { authority, action: Action::To(cluster) })
            .collect();
        routes.push(Connect { authority: "*", action: Action::To(ARRIVED) });
        let filters = [destination_of_request("%REQ(:AUTHORITY)%"), router()];
        let chains: Vec<Value> = addresses.iter().map(Virtual::chain).collect();
        let pass_on = [destination_of_connection("%DOWNSTREAM_LOCAL_ADDRESS%"), tcp_proxy(ARRIVED, LEAVES)];
        let arrived = json!({
            "internal_listener": {},
            "listener_filters": take_destination(),
            "filter_chains": chains,
            "default_filter_chain": {"filters": pass_on},
        });
        let leave = tunneling_proxy(LEAVES, "tunnels", "%DOWNSTREAM_LOCAL_ADDRESS%", &[]);
        let leaves = json!({
            "internal_listener": {},
            "listener_filters": take_destination(),
            "filter_chains": [{"filters": [leave]}],
        });
        let tunnels = json!({
            "name": "tunnels",
            "connect_timeout": "2s",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"upstream_port_override": 15008},
        });
        let tunnels = self.in_tunnels(tunnels, &[]);
        let this = addresses.iter().fold(self, |this, address| this.with(address.cluster()));
        this.ends(&[], &routes, &filters, &[])
            .listener(ARRIVED, arrived)
            .listener(LEAVES, leaves)
            .with(internal(cluster(ARRIVED, &[endpoint(&internal_address(ARRIVED, ""))])))
            .with(internal(cluster(LEAVES, &[endpoint(&internal_address(LEAVES, ""))])))
            .with(tunnels)
    }

    /// A waypoint whose tunnels the node's proxy ends and opens. The proxy says by the PROXY protocol who asks for what.
    pub(crate) fn sandwiched_waypoint(self, port: u16, addresses: &[Virtual<'_>]) -> Self {
        let rule = json!({
            "tlv_type": 0xD0,
            "on_tlv_present": {"key": "principal"},
        });
        let of = "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
        let filter = typed("proxy", of, json!({"rules": [rule]}));
        let chains: Vec<Value> = addresses.iter().map(Virtual::chain).collect();
        let listening = json!({
            "address": socket("127.0.0.1", port),
            "listener_filters": [filter],
            "filter_chains": chains,
            "default_filter_chain": {"filters": [tcp_proxy("sandwich", "asked")]},
        });
        let asked = json!({
            "name": "asked",
            "connect_timeout": "2s",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
        });
        let this = addresses.iter().fold(self, |this, address| this.with(address.plain_cluster()));
        this.listener("sandwich", listening).with(asked)
    }
}

// === impl Connect ===

impl Connect<'_> {
    fn host(&self) -> Value {
        let matching = json!({"connect_matcher": {}});
        let route = match &self.action {
            Action::To(cluster) => {
                let upgrades = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
                let route = json!({"cluster": cluster, "timeout": "0s", "upgrade_configs": upgrades});
                json!({"match": matching, "route": route})
            }
            Action::Answer(status) => json!({"match": matching, "direct_response": {"status": status}}),
        };
        json!({"name": self.authority, "domains": [self.authority], "routes": [route]})
    }
}

// === impl Virtual ===

impl Virtual<'_> {
    fn name(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }

    /// The endpoint, by a tunnel of the waypoint's own.
    fn cluster(&self) -> Value {
        let mut endpoint = endpoint(&internal_address(LEAVES, self.endpoint));
        endpoint["metadata"] = json!({"filter_metadata": {DESTINATION: {"local": self.endpoint}}});
        internal(cluster(&self.name(), &[endpoint]))
    }

    fn plain_cluster(&self) -> Value {
        let (ip, port) = self.endpoint.split_once(':').unwrap();
        cluster(&self.name(), &[endpoint(&socket(ip, port.parse().unwrap()))])
    }

    fn chain(&self) -> Value {
        let name = self.name();
        let matching = json!({
            "prefix_ranges": [{"address_prefix": self.ip, "prefix_len": 32}],
            "destination_port": self.port,
        });
        let filter = if self.is_http { self.http(&name) } else { tcp_proxy(&name, &name) };
        json!({"name": name, "filter_chain_match": matching, "filters": [filter]})
    }

    fn http(&self, name: &str) -> Value {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name}});
        let hosts = json!([{"name": "all", "domains": ["*"], "routes": [route]}]);
        manager(name, json!({"http_filters": [router()], "route_config": {"virtual_hosts": hosts}}))
    }
}
