//! Routes against slow models, which were written from the contract alone, in random meshes.

mod failover;
mod inbound;
mod meshes;
mod model;

use std::{collections::BTreeMap, net::SocketAddr};

use model::{Call, Chances, ips};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::protocols::{
    addr::OrigDst,
    mesh::Mesh,
    property::{Tally, check},
};

/// The draws of one call, which show each route whose chance is at least 5 %.
const DRAWS: u32 = 600;
/// The chance from which on a route is surely seen: (1 - 0.05)^600 is 4e-14.
const SEEN: f64 = 0.05;

/// A route as text, in the words of the model. Of what is passed through no service is told.
fn told(route: Result<Route, RouteError>) -> String {
    let route = match route {
        Ok(route) => route,
        Err(RouteError::NoHealthyUpstream(_)) => return "no upstream".into(),
        Err(RouteError::UnknownWaypoint(_)) => return "unknown waypoint".into(),
        Err(RouteError::UnknownGateway(_)) => return "unknown gateway".into(),
        Err(RouteError::NoGateway(_)) => return "no gateway".into(),
        Err(RouteError::OtherNetwork(_)) => return "other network".into(),
        Err(error @ (RouteError::Recursive | RouteError::NoAddress(_))) => return error.to_string(),
    };
    let upstream = |to: &Upstream| match to {
        Upstream::Ip(to) => to.to_string(),
        Upstream::Host { host, port, prefer_v6 } => format!("{host}:{port} v6={prefer_v6}"),
    };
    let names = |sans: &Sans| sans.iter().map(|san| san.as_str().to_owned()).collect::<Vec<_>>();
    let hop = match &route.hop {
        Hop::Tcp { to } => format!("tcp {}", upstream(to)),
        Hop::Hbone { to, authority, sans } => {
            format!("hbone {} for {authority} as {:?}", upstream(to), names(sans))
        }
        Hop::DoubleHbone { to, gateway_sans, authority, sans } => {
            let (to, outer, inner) = (upstream(to), names(gateway_sans), names(sans));
            format!("double {to} as {outer:?} for {authority} as {inner:?}")
        }
    };
    let Some(destination) = &route.destination else { return format!("{hop} dest=-") };
    let service = route.service.map_or("-".into(), |service| service.key().as_str().to_owned());
    format!("{hop} dest={} of {service}", destination.uid())
}

/// Draws the route of `call` `draws` times.
fn draw(mesh: &Mesh, call: Call<'_>, draws: u32) -> BTreeMap<String, u32> {
    let mut rng = SmallRng::seed_from_u64(7);
    let workload = mesh.workload(&call.source.uid).unwrap();
    let source = Source { workload: &workload, client: call.client };
    let dst = OrigDst::new((call.ip, call.port).into());
    let mut seen = BTreeMap::new();
    for _ in 0..draws {
        let mut pick = Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () };
        *seen.entry(told(outbound(mesh, &source, dst, &mut pick))).or_default() += 1;
    }
    seen
}

/// The chances of each route.
fn by_route(chances: Chances<String>) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (chance, route) in chances {
        *all.entry(route).or_default() += chance;
    }
    all
}

fn kind(route: &str) -> &'static str {
    let kinds = [
        "tcp",
        "hbone",
        "double",
        "no upstream",
        "unknown waypoint",
        "unknown gateway",
        "no gateway",
        "other network",
    ];
    kinds.into_iter().find(|kind| route.starts_with(kind)).unwrap_or("other")
}

#[test]
fn outbound_routes_are_those_of_a_slow_model_of_the_contract() {
    let tally = Tally::default();
    let all = (
        meshes::world(),
        prop::collection::vec((any::<prop::sample::Index>(), meshes::destination()), 3..10),
    );
    check(800, &all, |(world, calls)| {
        let mesh = world.mesh();
        for (source, (ip, port)) in calls {
            let source = source.get(&world.model.workloads);
            let client = ips(source).first().copied().unwrap_or("10.0.0.9".parse().unwrap());
            let call = Call { source, client, ip, port };
            world.model.open.set(false);
            let want = by_route(world.model.outbound(call));
            let open = world.model.open.get();
            let got = draw(&mesh, call, if want.len() > 1 { DRAWS } else { 3 });
            let what = || format!("{} calls {ip} {port}: {got:#?} for {want:#?}", source.uid);
            prop_assert!(got.keys().all(|route| want.contains_key(route)), "{}", what());
            let is_seen = |(route, chance): (&String, &f64)| *chance < SEEN || got.contains_key(route);
            prop_assert!(open || want.iter().all(is_seen), "{}", what());
            want.keys().for_each(|route| tally.count(kind(route)));
            tally.count(if open { "open" } else { "certain" });
            tally.count(if want.len() > 1 { "several" } else { "one" });
            let name = |service: Option<&crate::protocols::pb::workload::Service>| service.map(model::key);
            let want: Vec<_> =
                world.model.asked(call).into_iter().map(|(_, service)| name(service)).collect();
            let workload = mesh.workload(&source.uid).unwrap();
            let dst = OrigDst::new((ip, port).into());
            let got = asked_service(&mesh, &Source { workload: &workload, client }, dst);
            let got = got.map(|service| service.key().as_str().to_owned());
            prop_assert!(want.contains(&got), "{} asks for {got:?}, not {want:?}", source.uid);
        }
        Ok(())
    });
    tally.has_each_of(
        &[
            "tcp",
            "hbone",
            "double",
            "no upstream",
            "unknown waypoint",
            "unknown gateway",
            "no gateway",
            "certain",
        ],
        3,
    );
}

#[test]
fn endpoints_are_drawn_from_the_best_rank_of_a_slow_model_by_their_weights() {
    let tally = Tally::default();
    check(700, &meshes::one_service(), |world| {
        let mesh = world.mesh();
        let source = &world.model.workloads[0];
        let vip = model::ip(&world.model.services[0].addresses[0].address);
        let call = Call { source, client: ips(source)[0], ip: vip, port: 80 };
        world.model.open.set(false);
        let want = by_route(world.model.outbound(call));
        let draws = if want.len() > 1 { 2000 } else { 3 };
        let got = draw(&mesh, call, draws);
        let what = || format!("{got:#?} for {want:#?}");
        prop_assert!(got.keys().all(|route| want.contains_key(route)), "{}", what());
        for (route, chance) in &want {
            let (mean, count) =
                (f64::from(draws) * chance, f64::from(got.get(route).copied().unwrap_or_default()));
            let deviation = (mean * (1.0 - chance)).sqrt();
            prop_assert!((count - mean).abs() <= 7.0 * deviation + 1e-6, "{route}: {}", what());
            tally.count(kind(route));
        }
        tally.count(["none", "one", "two", "three", "more", "more", "more"][want.len()]);
        Ok(())
    });
    tally.has_each_of(&["hbone", "double", "tcp", "no upstream", "one", "two", "three", "more"], 5);
}
