//! Names that are asked for on demand, against a slow model: a proxy that asks for what it lacks, and gets what
//! docs/spec/controlplane.md 2.3 promises, routes as one that was told everything.

use std::collections::BTreeSet;

use super::{
    model::{Model, ip, key},
    *,
};
use crate::protocols::pb::workload as pb;

/// The questions one after the other that a connection may put, as docs/limits.md has it.
const ROUNDS: usize = 6;

/// What a control plane answers: whatever has the name, and the endpoints of a service with it.
fn answer(model: &Model, name: &str) -> (Vec<pb::Workload>, Vec<pb::Service>) {
    let (first, second) = name.split_once('/').unwrap();
    let address = second.parse::<IpAddr>().ok();
    let is_service = |s: &&pb::Service| match address {
        Some(asked) => s.addresses.iter().any(|a| a.network == first && ip(&a.address) == asked),
        None => key(s) == name,
    };
    let services: Vec<_> = model.services.iter().filter(is_service).cloned().collect();
    let is_workload = |w: &&pb::Workload| {
        let is_named = match address {
            Some(asked) => w.network == first && ips(w).contains(&asked),
            None => w.namespace == first && w.hostname == second,
        };
        is_named || services.iter().any(|s| w.services.contains_key(&key(s)))
    };
    (model.workloads.iter().filter(is_workload).cloned().collect(), services)
}

/// What the proxy knows.
struct Known<'a> {
    all: &'a Model,
    workloads: BTreeSet<String>,
    services: BTreeSet<String>,
}

impl Known<'_> {
    fn mesh(&self) -> Mesh {
        let mut part = self.all.clone();
        part.workloads.retain(|w| self.workloads.contains(&w.uid));
        part.services.retain(|s| self.services.contains(&key(s)));
        meshes::mesh_of(part)
    }

    fn learns(&mut self, (workloads, services): (Vec<pb::Workload>, Vec<pb::Service>)) {
        self.workloads.extend(workloads.into_iter().map(|w| w.uid));
        self.services.extend(services.iter().map(key));
    }
}

/// The same mesh in which no two have an address or a hostname in common: of two, one may be known and not the other.
fn distinct(mut model: Model) -> Model {
    for (n, w) in model.workloads.iter_mut().enumerate().filter(|(_, w)| w.name != "gateway") {
        let n = u8::try_from(n).unwrap() + 1;
        w.addresses.iter_mut().for_each(|address| *address.last_mut().unwrap() = n);
        w.addresses.retain(|address| address.len() == 4 || !address.starts_with(&[0, 0]));
        w.addresses.dedup();
        if n > 1 {
            w.hostname = String::new();
        }
    }
    for (n, s) in model.services.iter_mut().enumerate() {
        let n = u8::try_from(n).unwrap() + 1;
        // A range is not asked for by an address in it.
        s.addresses.retain(model::is_vip);
        for address in &mut s.addresses {
            address.address = if address.address.len() == 4 { vec![10, 1, 0, n] } else { fd01(n) };
            address.length = None;
        }
    }
    model
}

fn fd01(last: u8) -> Vec<u8> {
    [vec![0xfd, 1], vec![0; 13], vec![last]].concat()
}

#[test]
fn what_is_asked_for_on_demand_leads_to_the_routes_of_a_whole_mesh() {
    let tally = Tally::default();
    let all =
        (meshes::world(), prop::collection::vec((any::<prop::sample::Index>(), meshes::destination()), 1..6));
    check(500, &all, |(world, calls)| {
        let all = distinct(world.model);
        for (source, (ip, port)) in calls {
            // The pods of a proxy are on its own network.
            let pods: Vec<_> = all.workloads.iter().filter(|w| w.network == all.network).collect();
            prop_assume!(!pods.is_empty());
            let source = *source.get(&pods);
            let client = ips(source).first().copied().unwrap_or("10.0.0.99".parse().unwrap());
            let call = Call { source, client, ip, port };
            let mut known = Known { all: &all, workloads: [source.uid.clone()].into(), services: [].into() };
            let mut asked = BTreeSet::new();
            let mut rounds = 0;
            let mesh = loop {
                let mesh = known.mesh();
                let workload = mesh.workload(&source.uid).unwrap();
                let src = Source { workload: &workload, client };
                let missing = missing_outbound(&mesh, &src, OrigDst::new((ip, port).into()));
                let new: Vec<_> = missing.into_iter().filter(|name| asked.insert(name.clone())).collect();
                if new.is_empty() {
                    break mesh;
                }
                rounds += 1;
                new.iter().for_each(|name| known.learns(answer(&all, name)));
            };
            prop_assert!(rounds <= ROUNDS, "{rounds} rounds: {asked:?}");
            tally.count(["none", "one", "two", "three or more"][rounds.min(3)]);
            all.open.set(false);
            let want = by_route(all.outbound(call));
            let open = all.open.get();
            let got = draw(&mesh, call, if want.len() > 1 { DRAWS } else { 3 });
            let what =
                || format!("{} calls {ip} {port}, asked {asked:?}: {got:#?} for {want:#?}", source.uid);
            prop_assert!(got.keys().all(|route| want.contains_key(route)), "{}", what());
            let is_seen = |(route, chance): (&String, &f64)| *chance < SEEN || got.contains_key(route);
            prop_assert!(open || want.iter().all(is_seen), "{}", what());
            want.keys().for_each(|route| tally.count(kind(route)));
        }
        Ok(())
    });
    let kinds = ["one", "two", "three or more", "tcp", "hbone", "double", "no upstream", "unknown waypoint"];
    tally.has_each_of(&kinds, 3);
}
