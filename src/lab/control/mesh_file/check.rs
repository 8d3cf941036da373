//! Turns the file as written into a checked mesh. The check continues after a problem, to report all problems.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Gateway, Listed, Mesh, Outside, Pod, Policy, Problem, Problems, Protocol, Rule, Scope, Service, Source,
    Target, Vip,
    addresses::{Addresses, NODES, OUTSIDE, PODS, Range, VIPS},
    mesh::find_pod,
    networks, raw,
};

/// The default name of a namespace and of a service account.
const DEFAULT: &str = "default";

/// Collects the problems of the whole file.
struct Check {
    problems: Vec<Problem>,
    addresses: Addresses,
}

/// One item of the file: its position and its description.
#[derive(Clone)]
struct Item {
    line: u64,
    label: String,
}

/// Checks the whole file.
pub(super) fn mesh(raw: raw::Mesh) -> Result<Mesh, Problems> {
    let mut check = Check { problems: Vec::new(), addresses: Addresses::new() };
    let raw::Mesh { nodes, networks, pods, outside, services, policies, strict } = raw;
    let known: HashSet<String> = nodes.keys().cloned().collect();
    let only = (known.len() == 1).then(|| known.iter().next().cloned()).flatten();

    // Addresses that the file gives are taken first, so that no chosen address collides with them.
    let nodes = check.nodes(nodes);
    let mut pods: Vec<(Item, Pod)> = pods.into_iter().map(|pod| check.pod(pod, only.as_deref())).collect();
    let mut outside: Vec<(Item, Outside)> = outside.into_iter().map(|host| check.outside(host)).collect();
    check.unique(pods.iter().map(|(item, pod)| (item, format!("{}/{}", pod.namespace, pod.name))));
    check.unique(outside.iter().map(|(item, host)| (item, host.name.clone())));
    for (item, pod) in &pods {
        if !known.contains(&pod.node) && !pod.node.is_empty() {
            check.problem(item, &format!("there is no node {:?}", pod.node));
        }
    }
    let nodes = check.choose_nodes(nodes);
    check.choose(&mut pods, PODS, |pod| (&mut pod.ips, vec![pod.namespace.clone(), pod.name.clone()]));
    check.choose(&mut outside, OUTSIDE, |host| (&mut host.ips, vec![host.name.clone()]));

    let mut pods: Vec<Pod> = pods.into_iter().map(|(_, pod)| pod).collect();
    let mut services = check.services(services, &pods);
    let networks = networks::apply(networks, &nodes, (&mut pods, &mut services));
    let networks = networks.unwrap_or_else(|problems| {
        check.problems.extend(problems);
        Vec::new()
    });
    let policies = check.policies(policies, &pods);
    let strict = check.strict(strict, &pods);
    if check.problems.is_empty() {
        let outside = outside.into_iter().map(|(_, host)| host).collect();
        return Ok(Mesh { nodes, networks, pods, outside, services, policies, strict });
    }
    check.problems.sort_by_key(|problem| problem.line);
    Err(Problems(check.problems))
}

/// The pods of `namespace` that have the app, and those that `names` lists.
#[derive(Clone, Copy)]
struct Selector<'a> {
    namespace: &'a str,
    app: Option<&'a str>,
    names: &'a [String],
}

// === impl Check ===

impl Check {
    fn problem(&mut self, item: &Item, what: &str) {
        self.problems.push(Problem { line: item.line, what: format!("{}: {what}", item.label) });
    }

    /// Parses `text`; a failure adds a problem and returns none.
    fn parse<T, E: std::fmt::Display>(&mut self, item: &Item, key: &str, text: &str) -> Option<T>
    where
        T: std::str::FromStr<Err = E>,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(item, &format!("{key} {text:?}: {error}"));
                None
            }
        }
    }

    fn label(&mut self, item: &Item, key: &str, name: &str) {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
        if name.len() > 63
            || !name.chars().all(inner)
            || !edge(name.chars().next())
            || !edge(name.chars().last())
        {
            self.problem(
                item,
                &format!("{key} {name:?} is not 1 to 63 lower-case letters, digits and inner hyphens"),
            );
        }
    }

    fn unique<'a>(&mut self, items: impl Iterator<Item = (&'a Item, String)>) {
        let mut first = HashMap::new();
        for (item, name) in items {
            if let Some(line) = first.get(&name) {
                self.problem(item, &format!("is on line {line} already"));
            } else {
                first.insert(name, item.line);
            }
        }
    }

    fn ips(&mut self, item: &Item, ips: Vec<String>) -> Vec<IpAddr> {
        let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| self.parse(item, "ip", ip)).collect();
        for ip in &parsed {
            if !self.addresses.take(*ip) {
                self.problem(item, &format!("the address {ip} is taken"));
            }
        }
        parsed
    }

    fn gateway(&mut self, item: &Item, key: &str, text: Option<&str>) -> Option<Gateway> {
        text.and_then(|text| self.parse(item, key, text))
    }

    fn nodes(
        &mut self,
        raw: BTreeMap<String, serde_saphyr::Spanned<Option<String>>>,
    ) -> Vec<(Item, String, Option<IpAddr>)> {
        raw.into_iter()
            .map(|(name, ip)| {
                let item = Item { line: ip.referenced.line(), label: format!("node {name}") };
                self.label(&item, "name", &name);
                let ip = self.ips(&item, ip.value.into_iter().collect()).pop();
                (item, name, ip)
            })
            .collect()
    }

    fn choose_nodes(&mut self, nodes: Vec<(Item, String, Option<IpAddr>)>) -> BTreeMap<String, IpAddr> {
        let mut chosen = BTreeMap::new();
        for (item, name, ip) in nodes {
            match ip.or_else(|| self.addresses.choose(NODES, &[&name])) {
                Some(ip) => drop(chosen.insert(name, ip)),
                None => self.problem(&item, "no address is left for it"),
            }
        }
        chosen
    }

    /// Gives an address to each host that has none, in the order of their names.
    fn choose<T>(
        &mut self,
        hosts: &mut [(Item, T)],
        range: Range,
        of: impl Fn(&mut T) -> (&mut Vec<IpAddr>, Vec<String>),
    ) {
        let mut order: Vec<_> = hosts.iter_mut().map(|(item, host)| (&*item, of(host))).collect();
        order.sort_by(|(_, (_, one)), (_, (_, other))| one.cmp(other));
        for (item, (ips, name)) in order {
            if !ips.is_empty() {
                continue;
            }
            let name: Vec<&str> = name.iter().map(String::as_str).collect();
            match self.addresses.choose(range, &name) {
                Some(ip) => ips.push(ip),
                None => self.problem(item, "no address is left for it"),
            }
        }
    }

    fn pod(&mut self, raw: raw::Pod, only_node: Option<&str>) -> (Item, Pod) {
        let namespace = raw.namespace.unwrap_or_else(|| DEFAULT.into());
        let (line, name) = (raw.name.referenced.line(), raw.name.value);
        let item = Item { line, label: format!("pod {namespace}/{name}") };
        self.label(&item, "name", &name);
        self.label(&item, "namespace", &namespace);
        let service_account = raw.service_account.unwrap_or_else(|| DEFAULT.into());
        self.label(&item, "serviceAccount", &service_account);
        let node = raw.node.or_else(|| only_node.map(str::to_owned)).unwrap_or_else(|| {
            self.problem(&item, "says no node, and there is not exactly one");
            String::new()
        });
        let captured = raw.captured.unwrap_or(true);
        let _ = self.gateway(&item, "announce.networkGateway", raw.announce.network_gateway.as_deref());
        let pod = Pod {
            ips: self.ips(&item, raw.ip.0),
            app: raw.app.unwrap_or_else(|| name.clone()),
            version: raw.version.unwrap_or_else(|| "v1".into()),
            // A pod that is not captured has no proxy to end a tunnel.
            protocol: raw.protocol.unwrap_or(if captured { Protocol::Hbone } else { Protocol::Tcp }),
            waypoint: self.gateway(&item, "waypoint", raw.waypoint.as_deref()),
            run: raw.run.0,
            announce: raw.announce,
            name,
            namespace,
            service_account,
            node,
            captured,
        };
        (item, pod)
    }

    fn outside(&mut self, raw: raw::Outside) -> (Item, Outside) {
        let (line, name) = (raw.name.referenced.line(), raw.name.value);
        let item = Item { line, label: format!("outside host {name}") };
        self.label(&item, "name", &name);
        let ips = self.ips(&item, raw.ip.0);
        (item, Outside { name, ips, run: raw.run.0 })
    }

    fn services(&mut self, raw: Vec<raw::Service>, pods: &[Pod]) -> Vec<Service> {
        let mut services: Vec<(Item, Service, bool)> =
            raw.into_iter().map(|service| self.service(service, pods)).collect();
        self.unique(services.iter().map(|(item, s, _)| (item, format!("{}/{}", s.namespace, s.hostname))));
        // Namespaces may share VIPs, so only chosen addresses must be new.
        for (_, service, _) in &services {
            for vip in &service.vips {
                self.addresses.take(vip.addresses.addr());
            }
        }
        let mut order: Vec<&mut (Item, Service, bool)> = services.iter_mut().collect();
        order.sort_by_key(|(_, s, _)| (s.namespace.clone(), s.name.clone()));
        for (item, service, choose) in order {
            if !*choose {
                continue;
            }
            match self.addresses.choose(VIPS, &[&service.namespace, &service.name]) {
                Some(ip) => service.vips.push(Vip { network: String::new(), addresses: ip.into() }),
                None => self.problem(item, "no address is left for it"),
            }
        }
        services.into_iter().map(|(_, service, _)| service).collect()
    }

    /// The service, and whether the check must choose an address for it.
    fn service(&mut self, raw: raw::Service, pods: &[Pod]) -> (Item, Service, bool) {
        let namespace = raw.namespace.unwrap_or_else(|| DEFAULT.into());
        let (line, name) = (raw.name.referenced.line(), raw.name.value);
        let item = Item { line, label: format!("service {namespace}/{name}") };
        self.label(&item, "name", &name);
        self.label(&item, "namespace", &namespace);
        if raw.ports.contains_key(&0) {
            self.problem(&item, "0 is no service port");
        }
        let choose = raw.vips.is_none();
        let vips = raw.vips.unwrap_or_default().0;
        let service = Service {
            hostname: raw.hostname.unwrap_or_else(|| format!("{name}.{namespace}.svc.cluster.local")),
            vips: vips.iter().filter_map(|text| self.vip(&item, text)).collect(),
            ports: raw.ports,
            endpoints: self.select(
                &item,
                pods,
                Selector { namespace: &namespace, app: raw.app.as_deref(), names: &raw.endpoints },
            ),
            waypoint: self.gateway(&item, "waypoint", raw.waypoint.as_deref()),
            weighted_waypoints: raw
                .weighted_waypoints
                .iter()
                .filter_map(|(text, weight)| Some((self.parse(&item, "weightedWaypoints", text)?, *weight)))
                .collect(),
            subject_alt_names: raw.subject_alt_names,
            load_balancing: raw.load_balancing,
            canonical: raw.canonical,
            visibility: raw.visibility,
            name,
            namespace,
        };
        (item, service, choose)
    }

    /// `address`, `address/length`, or either after `network/`.
    fn vip(&mut self, item: &Item, text: &str) -> Option<Vip> {
        let block = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        if let Some(addresses) = block(text) {
            return Some(Vip { network: String::new(), addresses });
        }
        let split = text.split_once('/').and_then(|(network, rest)| Some((network, block(rest)?)));
        if let Some((network, addresses)) = split {
            return Some(Vip { network: network.into(), addresses });
        }
        self.problem(item, &format!("vip {text:?} is neither address, address/length nor network/address"));
        None
    }

    /// The positions of the selected pods in `pods`, ascending.
    fn select(
        &mut self,
        item: &Item,
        pods: &[Pod],
        Selector { namespace, app, names }: Selector<'_>,
    ) -> Vec<usize> {
        let of_app = |pod: &Pod| pod.namespace == namespace && Some(pod.app.as_str()) == app;
        let mut chosen: Vec<usize> =
            pods.iter().enumerate().filter(|(_, pod)| of_app(pod)).map(|(i, _)| i).collect();
        for name in names {
            match find_pod(pods, name, Some(namespace)) {
                Some(index) => chosen.push(index),
                None => self.problem(item, &format!("there is no pod {name:?}, or more than one")),
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    fn policies(&mut self, raw: Vec<raw::Policy>, pods: &[Pod]) -> Vec<Policy> {
        let policies: Vec<(Item, Policy)> = raw.into_iter().map(|policy| self.policy(policy, pods)).collect();
        self.unique(policies.iter().map(|(item, p)| (item, format!("{}/{}", p.namespace, p.name))));
        policies.into_iter().map(|(_, policy)| policy).collect()
    }

    fn policy(&mut self, raw: raw::Policy, pods: &[Pod]) -> (Item, Policy) {
        let namespace = raw.namespace.unwrap_or_else(|| DEFAULT.into());
        let (line, name) = (raw.name.referenced.line(), raw.name.value);
        let item = Item { line, label: format!("policy {namespace}/{name}") };
        self.label(&item, "namespace", &namespace);
        let selects = raw.app.is_some() || !raw.pods.is_empty();
        let scope = raw.scope.unwrap_or(if selects { Scope::Workload } else { Scope::Namespace });
        if selects != (scope == Scope::Workload) {
            self.problem(&item, "app and pods go with the scope workload, and it with them");
        }
        let policy = Policy {
            scope,
            action: raw.action,
            dry_run: raw.dry_run,
            pods: self.select(
                &item,
                pods,
                Selector { namespace: &namespace, app: raw.app.as_deref(), names: &raw.pods },
            ),
            rules: raw.rules.into_iter().map(|rule| self.rule(&item, rule)).collect(),
            name,
            namespace,
        };
        (item, policy)
    }

    fn rule(&mut self, item: &Item, raw: raw::Rule) -> Rule {
        let from = |raw: raw::From| Source {
            namespaces: Listed { any: raw.namespaces, none: raw.not_namespaces },
            principals: Listed {
                any: self.principals(item, raw.principals),
                none: self.principals(item, raw.not_principals),
            },
            service_accounts: Listed {
                any: self.accounts(item, &raw.service_accounts),
                none: self.accounts(item, &raw.not_service_accounts),
            },
            ip_blocks: self.blocks(item, &raw.ip_blocks, &raw.not_ip_blocks),
        };
        let from = raw.from.0.into_iter().map(from).collect();
        let to = |raw: raw::To| Target {
            ports: Listed { any: raw.ports, none: raw.not_ports },
            ip_blocks: self.blocks(item, &raw.ip_blocks, &raw.not_ip_blocks),
        };
        Rule { from, to: raw.to.0.into_iter().map(to).collect() }
    }

    fn principals(&mut self, item: &Item, principals: Vec<String>) -> Vec<String> {
        for principal in principals.iter().filter(|p| p.contains("spiffe://")) {
            self.problem(item, &format!("principal {principal:?} can never match: leave out spiffe://"));
        }
        principals
    }

    fn accounts(&mut self, item: &Item, accounts: &[String]) -> Vec<(String, String)> {
        let mut split = Vec::new();
        for account in accounts {
            match account.split_once('/') {
                Some((namespace, name)) => split.push((namespace.into(), name.into())),
                None => self.problem(item, &format!("service account {account:?} is not namespace/account")),
            }
        }
        split
    }

    fn blocks(&mut self, item: &Item, any: &[String], none: &[String]) -> Listed<IpNet> {
        let mut parse = |texts: &[String]| -> Vec<IpNet> {
            let block = |text: &String| match text.parse::<IpAddr>() {
                Ok(ip) => Some(IpNet::from(ip)),
                Err(_) => self.parse(item, "address block", text),
            };
            texts.iter().filter_map(block).collect()
        };
        Listed { any: parse(any), none: parse(none) }
    }

    fn strict(&mut self, raw: Vec<serde_saphyr::Spanned<String>>, pods: &[Pod]) -> Vec<String> {
        for namespace in &raw {
            if !pods.iter().any(|pod| pod.namespace == namespace.value) {
                let item = Item { line: namespace.referenced.line(), label: "strict".into() };
                self.problem(&item, &format!("no pod is in the namespace {:?}", namespace.value));
            }
        }
        raw.into_iter().map(|namespace| namespace.value).collect()
    }
}
