//! The facts that a route depends on, as sentences.

use std::collections::BTreeMap;

use crate::protocols::{
    mesh::{Service, Workload, service::BalancingMode},
    route::{Examined, Fact, PassedOver, RouteRecorder, Upstream},
    why::explanation::Sentence,
};

/// Limit: endpoints in an explanation that may be chosen: 24; past it: the others are counted.
const CANDIDATES_SHOWN: usize = 24;
/// Limit: endpoints in an explanation that one reason passes over: 8; past it: the others are counted.
const PASSED_OVER_SHOWN: usize = 8;

/// Hears facts and makes sentences of them.
#[derive(Default)]
pub(crate) struct Trail {
    sentences: Vec<Sentence>,
    choice: Option<Choice>,
    /// For each choice that was made: what was chosen, what might have been, and whether as a last resort.
    #[cfg(test)]
    pub(crate) choices: Vec<(String, Vec<String>, bool)>,
}

/// A choice among the endpoints of a service.
struct Choice {
    service: String,
    port: u16,
    /// Whether the service ranks its endpoints by nearness.
    is_ranked: bool,
    endpoints: usize,
    eligible: Vec<Candidate>,
    passed_over: BTreeMap<PassedOver, Passed>,
    is_last_resort: bool,
}

/// An endpoint that may be chosen, as far as its own state goes.
struct Candidate {
    uid: Box<str>,
    name: String,
    rank: usize,
    suspect: bool,
    to: String,
}

/// Endpoints that are passed over for one reason.
#[derive(Default)]
struct Passed {
    count: usize,
    names: Vec<String>,
}

// === impl Trail ===

impl RouteRecorder for Trail {
    const HEARS: bool = true;

    fn hear(&mut self, fact: Fact<'_>) {
        let says = match fact {
            Fact::Choice(service, port) => {
                self.end_choice(None);
                self.choice = Some(Choice::begin(service, port));
                return;
            }
            Fact::Endpoint(workload, examined) => {
                if let Some(choice) = &mut self.choice {
                    choice.endpoint(workload, examined);
                }
                return;
            }
            Fact::LastResort => {
                if let Some(choice) = &mut self.choice {
                    choice.is_last_resort = true;
                }
                return;
            }
            Fact::Chosen(workload, port) if self.choice.is_some() => {
                return self.end_choice(Some((workload, port)));
            }
            Fact::Chosen(workload, port) => {
                format!("that is the workload {}, port {port}", workload.full_name())
            }
            Fact::OfService(service) => format!("the address is one of the service {}", service.key()),
            Fact::OfWorkload(workload) => format!("the address is the workload's own: {}", workload.uid()),
            Fact::OfNobody => {
                "the mesh does not know the address, so the connection goes there as it is".to_owned()
            }
            Fact::Passthrough(service) => {
                format!("the service {} leaves its connections as they are", service.key())
            }
            Fact::ServiceWaypoint(service, gateway) => {
                format!("the waypoint {gateway} is in front of the service {}", service.key())
            }
            Fact::WorkloadWaypoint(workload, gateway) => {
                format!("the waypoint {gateway} is in front of the workload {}", workload.full_name())
            }
            Fact::ClientIsWaypoint(gateway) => {
                format!("the client itself is the waypoint {gateway} in front of the workload")
            }
            Fact::NetworkGateway(workload, gateway) => format!(
                "{} is on the network {}, behind the gateway {gateway}",
                workload.full_name(),
                shown_network(workload)
            ),
        };
        self.sentences.push(Sentence::new(says));
    }
}

impl Trail {
    /// All sentences.
    pub(super) fn finish(mut self) -> Vec<Sentence> {
        self.end_choice(None);
        self.sentences
    }

    fn end_choice(&mut self, chosen: Option<(&Workload, u16)>) {
        let Some(choice) = self.choice.take() else { return };
        #[cfg(test)]
        if let Some((chosen, _)) = chosen {
            let may = choice.eligible.iter().filter(|candidate| choice.may_be_chosen(candidate));
            let may = may.map(|candidate| candidate.uid.to_string()).collect();
            self.choices.push((chosen.uid().to_owned(), may, choice.is_last_resort));
        }
        self.sentences.push(choice.sentence(chosen));
    }
}

fn shown_network(workload: &Workload) -> &str {
    if workload.network().is_empty() { "without a name" } else { workload.network() }
}

// === impl Choice ===

impl Choice {
    fn begin(service: &Service, port: u16) -> Self {
        Self {
            service: service.key().to_string(),
            port,
            is_ranked: service.balancing().mode != BalancingMode::Standard,
            endpoints: 0,
            eligible: Vec::new(),
            passed_over: BTreeMap::new(),
            is_last_resort: false,
        }
    }

    fn endpoint(&mut self, workload: &Workload, examined: &Examined) {
        self.endpoints += 1;
        match examined {
            Examined::Eligible { rank, to, suspect } => {
                let to = match to {
                    Some(Upstream::Ip(addr)) => addr.to_string(),
                    Some(Upstream::Host { host, port, .. }) => format!("{host}:{port}"),
                    None => "the gateway of its network".to_owned(),
                };
                let (uid, name) = (workload.uid().into(), workload.full_name());
                self.eligible.push(Candidate { uid, name, rank: *rank, suspect: *suspect, to });
            }
            Examined::PassedOver(why) => {
                let passed = self.passed_over.entry(*why).or_default();
                passed.count += 1;
                if passed.names.len() < PASSED_OVER_SHOWN {
                    passed.names.push(workload.full_name());
                }
            }
        }
    }

    fn best_rank(&self) -> usize {
        self.eligible.iter().map(|candidate| candidate.rank).max().unwrap_or_default()
    }

    /// Whether a draw decides about the candidate. A suspect is drawn only where its rank has no other endpoint.
    fn may_be_chosen(&self, candidate: &Candidate) -> bool {
        let best = self.best_rank();
        let trusted = self.eligible.iter().any(|other| other.rank == best && !other.suspect);
        candidate.rank == best && (!candidate.suspect || !trusted)
    }

    fn sentence(mut self, chosen: Option<(&Workload, u16)>) -> Sentence {
        let endpoints = match self.endpoints {
            1 => "its one endpoint".to_owned(),
            count => format!("its {count} endpoints"),
        };
        let (service, port) = (&self.service, self.port);
        let says = match chosen {
            None if self.endpoints == 0 => format!("the service {service} has no endpoint for port {port}"),
            None => format!("the service {service} can use none of {endpoints} for port {port}"),
            Some((workload, target)) => {
                let last = if self.is_last_resort { ", as a last resort" } else { "" };
                let name = workload.full_name();
                format!(
                    "the service {service} takes {name} of {endpoints}, port {target} for its port {port}{last}"
                )
            }
        };
        let order = |candidate: &Candidate| {
            let is_chosen = chosen.is_some_and(|(workload, _)| *workload.uid() == *candidate.uid);
            (!is_chosen, std::cmp::Reverse(candidate.rank), candidate.suspect, candidate.name.clone())
        };
        self.eligible.sort_by_cached_key(order);
        let lines = self.eligible.iter().take(CANDIDATES_SHOWN).map(|candidate| self.line(candidate, chosen));
        let mut because: Vec<Sentence> = lines.map(Sentence::new).collect();
        if let Some(more) = self.eligible.len().checked_sub(CANDIDATES_SHOWN).filter(|more| *more > 0) {
            because.push(Sentence::new(format!("{more} more may be used")));
        }
        for (why, Passed { count, names }) in &self.passed_over {
            because.extend(names.iter().map(|name| Sentence::new(format!("{name} is passed over: {why}"))));
            if *count > names.len() {
                let more = count - names.len();
                because.push(Sentence::new(format!("{more} more are passed over: {why}")));
            }
        }
        Sentence::new(says).because(because)
    }

    fn line(&self, candidate: &Candidate, chosen: Option<(&Workload, u16)>) -> String {
        let Candidate { name, rank, to, .. } = candidate;
        let rank = if self.is_ranked { format!(" with nearness {rank}") } else { String::new() };
        let fate = match () {
            () if chosen.is_some_and(|(workload, _)| *workload.uid() == *candidate.uid) => "is taken",
            () if self.may_be_chosen(candidate) => "might have been taken as well",
            () if candidate.rank < self.best_rank() => "is passed over: another one is nearer",
            () => "is passed over: it failed lately",
        };
        format!("{name} at {to}{rank} {fate}")
    }
}
