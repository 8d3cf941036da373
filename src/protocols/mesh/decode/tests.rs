//! Decoding of workloads and services: what is refused, what is filled in.

use crate::protocols::mesh::{
    ApplicationTunnel, Change, DecodeError, Gateway, GatewayDestination, Service, TunnelHeader,
    TunnelProtocol, Workload,
    fixtures::{Svc, Wl, gateway, ip, octets, pod, ports, service},
    service::{BalancingMode, HealthPolicy, IpFamilies, Scope, Visibility},
    workload::{Status, WorkloadType},
};
use crate::protocols::pb::workload as pb;

#[test]
fn values_are_small() {
    assert!(size_of::<Workload>() <= 80, "{}", size_of::<Workload>());
    assert!(size_of::<Change>() <= 80, "{}", size_of::<Change>());
}

#[test]
fn empty_fields_of_a_workload_get_their_defaults() {
    let pb = pb::Workload { uid: "u".into(), namespace: "ns".into(), ..Default::default() };
    let workload = Workload::decode(pb).unwrap();
    assert_eq!(workload.identity().as_str(), "spiffe://cluster.local/ns/ns/sa/default");
    assert_eq!(
        (workload.trust_domain(), workload.namespace(), workload.service_account()),
        ("cluster.local", "ns", "default")
    );
    assert_eq!((workload.cluster_id(), workload.capacity(), workload.network()), ("Kubernetes", 1, ""));
    assert_eq!((workload.protocol(), workload.status()), (TunnelProtocol::Tcp, Status::Healthy));
    assert_eq!(workload.workload_type(), WorkloadType::Deployment);
    assert_eq!((workload.name(), workload.hostname(), workload.addresses()), ("", None, [].as_slice()));
}

#[test]
fn every_field_of_a_workload_arrives() {
    let workload = pod("a", "10.0.0.1 fd00::1")
        .hbone()
        .network("n2")
        .hostname("a.example")
        .locality("r", "z", "s")
        .unhealthy()
        .capacity(7)
        .host_network()
        .waypoint("n3/10.9.0.1:15009")
        .network_gateway("ns2/gw.example")
        .tunnel(true, 15088)
        .of("svc", &[(80, 8080), (80, 8081), (443, 8443)])
        .of("abc", &[])
        .edit(|pb| {
            pb.workload_type = pb::WorkloadType::Cronjob.into();
            pb.canonical_revision = "v2".into();
            pb.trust_domain = "td".into();
            pb.native_tunnel = true;
            pb.cluster_id = "c2".into();
            pb.authorization_policies = vec!["ns1/p".into()];
        })
        .decode();
    assert_eq!((workload.name(), workload.uid()), ("a", "Kubernetes//Pod/ns1/a"));
    assert_eq!(workload.addresses(), [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!((workload.protocol(), workload.network()), (TunnelProtocol::Hbone, "n2"));
    assert_eq!(workload.hostname().map(|name| &**name), Some("a.example"));
    let place = workload.place();
    assert_eq!((&*place.region, &*place.zone, &*place.subzone, &*place.node), ("r", "z", "s", "node-2"));
    assert_eq!((workload.status(), workload.capacity()), (Status::Unhealthy, 7));
    assert!(workload.host_network() && workload.native_tunnel());
    let destination = GatewayDestination::Address { network: "n3".into(), ip: ip("10.9.0.1") };
    assert_eq!(workload.waypoint(), Some(&Gateway { destination, hbone_port: 15009 }));
    assert_eq!(workload.network_gateway().unwrap().to_string(), "ns2/gw.example:15008");
    let tunnel = ApplicationTunnel { protocol: TunnelHeader::Proxy, port: Some(15088) };
    assert_eq!(workload.application_tunnel(), Some(tunnel));
    let services: Vec<&str> = workload.services().iter().map(|m| m.service.as_str()).collect();
    assert_eq!(services, ["ns1/abc", "ns1/svc"]);
    let own: Vec<_> = workload.services()[1].ports.iter().collect();
    assert_eq!(own, [(80, 8081), (443, 8443)], "the last entry for a port counts");
    assert_eq!(workload.workload_type().as_str(), "cronjob");
    assert_eq!((workload.canonical_name(), workload.canonical_revision()), ("a", "v2"));
    assert_eq!((workload.workload_name(), workload.cluster_id()), ("a", "c2"));
    assert_eq!(workload.identity().as_str(), "spiffe://td/ns/ns1/sa/sa-a");
    assert_eq!(workload.policies(), [Box::from("ns1/p")]);
}

#[test]
fn a_name_that_is_no_part_of_the_uid_is_kept_all_the_same() {
    let workload = pod("a", "10.0.0.1").uid("opaque").edit(|pb| pb.name = "other".into()).decode();
    assert_eq!((workload.uid(), workload.name()), ("opaque", "other"));
}

#[test]
fn bad_workloads_are_refused_by_the_name_of_the_field() {
    fn case(edit: impl FnOnce(&mut pb::Workload)) -> String {
        let Wl(pb) = pod("a", "10.0.0.1").edit(edit);
        Workload::decode(pb).map(|_| ()).unwrap_err().to_string()
    }
    assert_eq!(case(|pb| pb.uid.clear()), "uid is missing");
    assert_eq!(case(|pb| pb.addresses[0].clear()), "addresses: 0 bytes are no IP address");
    assert_eq!(case(|pb| pb.addresses.push(vec![1; 5])), "addresses: 5 bytes are no IP address");
    assert_eq!(case(|pb| pb.tunnel_protocol = 2), "tunnel_protocol: value 2 is not supported");
    assert_eq!(case(|pb| pb.tunnel_protocol = 9), "tunnel_protocol: value 9 is not supported");
    assert_eq!(case(|pb| pb.network_mode = 2), "network_mode: value 2 is not supported");
    assert_eq!(case(|pb| pb.status = -1), "status: value -1 is not supported");
    assert_eq!(
        case(|pb| pb.application_tunnel = Some(pb::ApplicationTunnel { protocol: 2, port: 1 })),
        "application_tunnel: value 2 is not supported"
    );
    assert_eq!(
        case(|pb| pb.application_tunnel = Some(pb::ApplicationTunnel { protocol: 1, port: 65536 })),
        "application_tunnel: 65536 is out of range"
    );
    assert_eq!(case(|pb| pb.waypoint = Some(pb::GatewayAddress::default())), "waypoint is missing");
    assert_eq!(
        case(|pb| {
            pb.network_gateway = Some(pb::GatewayAddress { hbone_mtls_port: 65536, ..gateway("10.0.0.1") });
        }),
        "network_gateway: 65536 is out of range"
    );
    for key in ["no-slash", "ns/", "ns/a/b"] {
        let list = pb::PortList::default();
        let text = case(|pb| drop(pb.services.insert(key.into(), list)));
        assert_eq!(text, format!("services: {key:?} is not namespace/hostname"));
    }
    let list = pb::PortList { ports: ports(&[(80, 65536)]) };
    assert_eq!(case(|pb| drop(pb.services.insert("ns/a".into(), list))), "services: 65536 is out of range");
    assert!(case(|pb| pb.namespace = "a/b".into()).contains("is not of the form spiffe://"));
    assert!(case(|pb| pb.namespace.clear()).contains("is not of the form spiffe://"));
    assert!(case(|pb| pb.uid = "x".repeat(3000)).ends_with("is longer than 2048 bytes"));
}

#[test]
fn an_unknown_workload_type_is_a_deployment() {
    let workload = pod("a", "10.0.0.1").edit(|pb| pb.workload_type = 77).decode();
    assert_eq!(workload.workload_type(), WorkloadType::Deployment);
}

#[test]
fn addresses_of_4_and_16_bytes_are_read_and_mapped_ones_become_ipv4() {
    let workload = pod("a", "10.0.0.1 fd00::1 ::ffff:10.0.0.2").decode();
    assert_eq!(workload.addresses(), [ip("10.0.0.1"), ip("fd00::1"), ip("10.0.0.2")]);
}

#[test]
fn addresses_of_a_service_are_single_or_ranges() {
    let service =
        service("a", "10.0.0.1 n2/10.0.0.2/32 10.1.2.3/16 fd00::1/128 fd00::1/64 ::ffff:10.0.0.0/104")
            .decode();
    let vips: Vec<_> = service.vips().iter().map(|vip| format!("{}/{}", vip.network, vip.ip)).collect();
    assert_eq!(vips, ["/10.0.0.1", "n2/10.0.0.2", "/fd00::1"]);
    let ranges: Vec<_> = service.cidr_vips().iter().map(|vip| vip.cidr.to_string()).collect();
    assert_eq!(ranges, ["10.1.0.0/16", "fd00::/64", "10.0.0.0/8"]);
}

#[test]
fn bad_services_are_refused_by_the_name_of_the_field() {
    fn case(edit: impl FnOnce(&mut pb::Service)) -> String {
        let Svc(pb) = service("a.example", "10.0.0.1").edit(edit);
        Service::decode(pb).map(|_| ()).unwrap_err().to_string()
    }
    fn balanced(lb: pb::LoadBalancing) -> String {
        case(|pb| pb.load_balancing = Some(lb))
    }
    assert_eq!(case(|pb| pb.hostname.clear()), r#"hostname: "ns1/" is not namespace/hostname"#);
    assert_eq!(case(|pb| pb.namespace = "a/b".into()), r#"hostname: "a/b" is no namespace"#);
    assert_eq!(case(|pb| pb.addresses[0].length = Some(33)), "addresses: 33 is out of range");
    assert_eq!(case(|pb| pb.addresses[0].address = vec![]), "addresses: 0 bytes are no IP address");
    assert_eq!(case(|pb| pb.ip_families = 4), "ip_families: value 4 is not supported");
    assert_eq!(
        balanced(pb::LoadBalancing { mode: 4, ..Default::default() }),
        "load_balancing.mode: value 4 is not supported"
    );
    assert_eq!(
        balanced(pb::LoadBalancing { health_policy: 2, ..Default::default() }),
        "load_balancing.health_policy: value 2 is not supported"
    );
    for scope in [0, 7] {
        assert_eq!(
            balanced(pb::LoadBalancing { routing_preference: vec![1, scope], ..Default::default() }),
            format!("load_balancing.routing_preference: value {scope} is not supported")
        );
    }
    assert_eq!(
        case(|pb| pb.weighted_waypoints = vec![pb::WeightedWaypoint::default()]),
        "weighted_waypoints is missing"
    );
}

#[test]
fn every_field_of_a_service_arrives() {
    let service = service("a.example", "10.0.0.1")
        .sans(&["spiffe://td/ns/a/sa/b", "nonsense"])
        .waypoint("10.9.0.1")
        .weighted(&[("ns1/wp", 3)])
        .balancing(
            pb::load_balancing::Mode::Failover,
            &[pb::load_balancing::Scope::Network, pb::load_balancing::Scope::Region],
        )
        .allow_all()
        .families(pb::IpFamilies::Ipv6Only)
        .canonical()
        .private()
        .ports(&[(443, 0), (80, 8080)])
        .decode();
    assert_eq!((service.name(), service.key().as_str()), ("a", "ns1/a.example"));
    assert_eq!(service.sans().iter().map(|san| san.as_str()).collect::<Vec<_>>(), ["spiffe://td/ns/a/sa/b"]);
    assert_eq!(service.waypoint().unwrap().to_string(), "/10.9.0.1:15008");
    assert_eq!(service.weighted_waypoints()[0].gateway.to_string(), "ns1/wp:15008");
    assert_eq!(*service.balancing().preferences, [Scope::Network, Scope::Region]);
    assert_eq!(service.balancing().mode, BalancingMode::Failover);
    assert_eq!(service.balancing().health, HealthPolicy::AllowAll);
    assert_eq!(service.ip_families(), Some(IpFamilies::V6));
    assert!(service.canonical());
    assert_eq!(service.visibility(), Visibility::Namespace);
    assert_eq!(service.ports().iter().collect::<Vec<_>>(), [(80, 8080), (443, 0)]);
    assert_eq!(
        [80, 443, 81].map(|port| service.ports().target(port)),
        [Some(8080), Some(0), None] //
    );
}

#[test]
fn an_unknown_visibility_is_public() {
    let service = service("a", "").edit(|pb| pb.visibility = 9).decode();
    assert_eq!(service.visibility(), Visibility::Public);
}

#[test]
fn a_resource_is_a_workload_or_a_service() {
    assert_eq!(
        Change::decode(pb::Address::default()).unwrap_err(),
        DecodeError::Missing("type") //
    );
    let Svc(pb) = service("a.example", "");
    let change = Change::decode(pb::Address { r#type: Some(pb::address::Type::Service(pb)) }).unwrap();
    assert_eq!(change.name(), "ns1/a.example");
    let Wl(pb) = pod("a", "");
    let change = Change::decode(pb::Address { r#type: Some(pb::address::Type::Workload(pb)) }).unwrap();
    assert_eq!(change.name(), "Kubernetes//Pod/ns1/a");
    assert_eq!(octets("10.0.0.1"), [10, 0, 0, 1]);
}
