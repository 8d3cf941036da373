//! The attempts of connections against a slow model: what docs/data-path.md promises of fail-over, in random meshes whose
//! endpoints fail in random ways. An endpoint that has failed is, for the model, gone from the mesh.

use std::{io, time::Instant};

use h2::Reason;
use http::StatusCode;
use proptest::{collection::vec, sample::select};

use super::{model::Model, *};
use crate::protocols::{
    hbone::client::ConnectError,
    outcome::{Cause, Failure, Unroutable},
    pb::workload as pb,
    route::{
        failover::{
            AfterFailure, Attempt, AttemptError, Failover, FailoverLimits, NoAttempt, TunnelAge, WaitingFor,
            tests::left,
        },
        suspects::{Suspects, Tried},
    },
};

/// What a row of the table of docs/data-path.md permits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum May {
    TryAgain,
    TryAgainUnlessSent,
    NotTryAgain,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Reached,
    NoConnection,
    NoTunnel,
    Slow,
    Unavailable,
    Forbidden,
    GatewayForbids,
    NoInnerTunnel,
    LeftOut,
    TunnelBroke,
    NoAnswer,
    NoName,
    NoCertificate,
    OwnNetwork,
    CutThere,
}

/// All of them.
const ENDS: [End; 15] = [
    End::Reached,
    End::NoConnection,
    End::NoTunnel,
    End::Slow,
    End::Unavailable,
    End::Forbidden,
    End::GatewayForbids,
    End::NoInnerTunnel,
    End::LeftOut,
    End::TunnelBroke,
    End::NoAnswer,
    End::NoName,
    End::NoCertificate,
    End::OwnNetwork,
    End::CutThere,
];

impl End {
    fn permits(self) -> May {
        match self {
            Self::NoConnection
            | Self::NoTunnel
            | Self::Slow
            | Self::Unavailable
            | Self::GatewayForbids
            | Self::NoInnerTunnel
            | Self::LeftOut
            | Self::OwnNetwork
            | Self::CutThere => May::TryAgain,
            Self::TunnelBroke | Self::NoAnswer => May::TryAgainUnlessSent,
            Self::Reached | Self::Forbidden | Self::NoName | Self::NoCertificate => May::NotTryAgain,
        }
    }

    /// Whether the address that was dialled is to blame, for all destinations or for this one.
    fn blames(self) -> bool {
        !matches!(
            self,
            Self::Reached
                | Self::Forbidden
                | Self::NoName
                | Self::NoCertificate
                | Self::OwnNetwork
                | Self::GatewayForbids
        )
    }

    fn error(self, to: SocketAddr, sent_along: bool) -> AttemptError {
        let io = |kind: io::ErrorKind| Failure::Dial(Cause::of(io::Error::from(kind)));
        let request = |error| AttemptError::Request { error, sent_along };
        let broken = |unprocessed| ConnectError::Tunnel { error: Reason::INTERNAL_ERROR.into(), unprocessed };
        let after = FailoverLimits::STANDARD.slow_after;
        match self {
            Self::Reached => unreachable!("no error"),
            Self::NoConnection => AttemptError::Connect(io(io::ErrorKind::ConnectionRefused)),
            Self::NoTunnel => AttemptError::Tunnel(io(io::ErrorKind::ConnectionReset)),
            Self::Slow => AttemptError::SlowConnect { to, after },
            Self::Unavailable => request(ConnectError::PeerStatus(StatusCode::SERVICE_UNAVAILABLE)),
            Self::Forbidden => request(ConnectError::PeerStatus(StatusCode::UNAUTHORIZED)),
            Self::GatewayForbids => request(ConnectError::PeerStatus(StatusCode::FORBIDDEN)).of_gateway(),
            Self::NoInnerTunnel => AttemptError::Inner(io(io::ErrorKind::ConnectionReset)),
            Self::LeftOut => request(broken(true)),
            Self::TunnelBroke => request(broken(false)),
            Self::NoAnswer => AttemptError::NoAnswer { to, after, sent_along },
            Self::NoName => AttemptError::Unresolved(Unroutable::NoAddresses("h".into())),
            Self::NoCertificate => AttemptError::NoTunnel(Failure::Identity("none".into())),
            Self::OwnNetwork => AttemptError::OwnFault(io(io::ErrorKind::NetworkUnreachable)),
            Self::CutThere => AttemptError::Cut,
        }
    }
}

/// A connection: how its attempts end, whether the client's first bytes go along, and how long after the one before it
/// begins, in milliseconds.
type Connection = (Vec<End>, bool, u64);

fn connection() -> impl Strategy<Value = Connection> {
    let end = prop_oneof![1 => Just(End::Reached), 3 => Just(End::NoConnection), 5 => select(ENDS.to_vec())];
    (vec(end, 3), any::<bool>(), select(vec![0_u64, 20, 120, 250, 11_000]))
}

/// The mesh without the workload that has the address `failed`.
fn without(model: &Model, failed: SocketAddr) -> Model {
    let mut left = model.clone();
    left.workloads.retain(|w| !ips(w).contains(&failed.ip()));
    left
}

/// What the model may do next; empty if nothing is left.
fn choices(model: &Model, call: Call<'_>) -> Vec<String> {
    let all = by_route(model.outbound(call)).into_keys();
    all.filter(|route| ["tcp", "hbone", "double"].iter().any(|kind| route.starts_with(kind))).collect()
}

/// One pod, its suspicions, and the time.
struct Client<'a> {
    mesh: Mesh,
    call: Call<'a>,
    rng: std::cell::RefCell<SmallRng>,
    suspects: Suspects,
    now: Instant,
}

impl Client<'_> {
    fn dst(&self) -> OrigDst {
        OrigDst::new((self.call.ip, self.call.port).into())
    }

    fn route(&self, excluded: &[SocketAddr], suspicion: Option<Suspicion<'_>>) -> Result<Route, RouteError> {
        let workload = self.mesh.workload(&self.call.source.uid).unwrap();
        let source = Source { workload: &workload, client: self.call.client };
        let mut rng = self.rng.borrow_mut();
        let mut pick = Pick { rng: &mut *rng, excluded, suspicion, recorder: () };
        outbound(&self.mesh, &source, self.dst(), &mut pick)
    }

    /// The workloads that the pod's connections to this destination pass over, at whichever address.
    fn suspected(&self, all: &[pb::Workload]) -> Vec<String> {
        let suspicion = self.suspects.of(self.dst(), self.now);
        let falls = |w: &&pb::Workload| {
            let workload = self.mesh.workload(&w.uid).unwrap();
            let ports = [15008, 8080, 9080];
            ips(w)
                .iter()
                .any(|ip| ports.iter().any(|port| suspicion.falls_on(&workload, (*ip, *port).into())))
        };
        all.iter().filter(falls).map(|w| w.uid.clone()).collect()
    }

    /// The next attempt, which the model must allow. `None` at the end of the connection.
    fn next(
        &mut self,
        failover: &mut Failover,
        left: &Model,
        number: usize,
    ) -> Result<Option<(Attempt, Route)>, TestCaseError> {
        self.suspects.tidy(self.now);
        let mut left = left.clone();
        left.suspects = self.suspected(&left.workloads);
        let want = choices(&left, self.call);
        let suspicion = self.suspects.of(self.dst(), self.now);
        match failover.next(|excluded| self.route(excluded, Some(suspicion))) {
            Ok((attempt, route)) => {
                let got = told(Ok(route.clone()));
                prop_assert!(want.contains(&got), "attempt {number} to {got}, not one of {want:#?}");
                // What is passed through has one destination.
                let is_last = number == 3 || route.destination.is_none();
                prop_assert_eq!((attempt.number, attempt.is_last), (number, is_last), "{}", got);
                Ok(Some((attempt, route)))
            }
            Err(none) => {
                prop_assert!(want.is_empty(), "attempt {number} is not made: {none:?}, but {want:#?}");
                prop_assert_eq!(matches!(none, NoAttempt::AllFailed(_)), number > 1, "{:?}", none);
                Ok(None)
            }
        }
    }
}

fn hop(route: &Route) -> Option<SocketAddr> {
    match route.hop.upstream() {
        Upstream::Ip(to) => Some(*to),
        Upstream::Host { .. } => None,
    }
}

#[test]
fn attempts_and_suspicions_of_connections_are_those_of_a_slow_model() {
    let tally = Tally::default();
    let all = (meshes::one_service(), vec(connection(), 1..8));
    check(500, &all, |(world, connections)| {
        let source = &world.model.workloads[0];
        let vip = model::ip(&world.model.services[0].addresses[0].address);
        let call = Call { source, client: ips(source)[0], ip: vip, port: 80 };
        let rng = SmallRng::seed_from_u64(7).into();
        let mut client =
            Client { mesh: world.mesh(), call, rng, suspects: Suspects::default(), now: Instant::now() };
        for (ends, sent_along, pause) in connections {
            client.now += std::time::Duration::from_millis(pause);
            let mut failover = Failover::new(FailoverLimits::STANDARD);
            let mut left = world.model.clone();
            for (number, end) in (1..).zip(ends) {
                let Some((attempt, route)) = client.next(&mut failover, &left, number)? else {
                    tally.count(if number > 1 { "all failed" } else { "unroutable" });
                    break;
                };
                // Names are not balanced: all of them have the one address that a resolver gives.
                let (Some(to), Some(workload)) = (hop(&route), &route.destination) else { break };
                let trial = client.suspects.begin(&route, client.dst(), client.now);
                let others = without(&left, to);
                let gives_up_slow = |waiting| {
                    failover.replaces_slow(&attempt, to, waiting, |excluded| client.route(excluded, None))
                };
                let has_others = number < 3 && !choices(&others, call).is_empty();
                prop_assert_eq!(gives_up_slow(WaitingFor::Endpoint), has_others);
                prop_assert!(!gives_up_slow(WaitingFor::Certificate));
                let error = (end != End::Reached).then(|| end.error(to, sent_along));
                let finding = error.as_ref().map_or(Finding::Reached, AttemptError::finding);
                let tried = Tried { workload, hop: to, asked: client.dst() };
                client.suspects.learn(&tried, finding, client.now);
                trial.inspect(|trial| client.suspects.end(*trial));
                client.now += std::time::Duration::from_millis(1);
                let uid = tried.workload.uid().to_owned();
                let is_suspect = client.suspected(&world.model.workloads).contains(&uid);
                prop_assert!(is_suspect || !end.blames(), "{:?} leaves no suspicion of {}", end, to);
                let Some(error) = error else {
                    prop_assert!(!is_suspect, "{} works", to);
                    tally.count("reached");
                    break;
                };
                let again = match end.permits() {
                    May::TryAgain => true,
                    May::TryAgainUnlessSent => !sent_along,
                    May::NotTryAgain => false,
                };
                let want = if again && number < 3 { AfterFailure::TryNext } else { AfterFailure::GiveUp };
                prop_assert_eq!(failover.failed(&attempt, to, &error), want, "{:?}, {}", end, sent_along);
                if want == AfterFailure::GiveUp {
                    tally.count(if number == 3 { "third" } else { "final" });
                    break;
                }
                tally.count("again");
                left = others;
            }
        }
        Ok(())
    });
    tally.has_each_of(&["reached", "again", "third", "final", "all failed", "unroutable"], 20);
}

#[test]
fn a_request_gets_as_many_tunnels_as_the_limits_say_and_none_after_it_was_heard() {
    let limits = FailoverLimits { endpoints: 3, tunnels: 2, kept_tunnels: 4, ..FailoverLimits::STANDARD };
    let one = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    check(400, &vec(one, 1..12), |tries| {
        let to: SocketAddr = "10.0.0.1:15008".parse().unwrap();
        let route = Route { hop: Hop::Tcp { to: Upstream::Ip(to) }, destination: None, service: None };
        let (mut attempt, _) = Failover::new(limits).next(|_| Ok(route)).unwrap();
        let (mut new, mut leaving) = (0, 0);
        for (is_tunnel, unprocessed, sent_along, goes_away, kept) in tries {
            let error = match (is_tunnel, goes_away) {
                (false, _) => ConnectError::PeerStatus(StatusCode::SERVICE_UNAVAILABLE),
                (true, true) => ConnectError::Tunnel { error: left(), unprocessed },
                (true, false) => ConnectError::Tunnel { error: Reason::REFUSED_STREAM.into(), unprocessed },
            };
            let error = AttemptError::Request { error, sent_along };
            let age = if kept { TunnelAge::Kept } else { TunnelAge::New };
            // A kept tunnel that was on its way out does not count as one that failed.
            let counted = if kept && is_tunnel && goes_away { &mut leaving } else { &mut new };
            *counted += 1;
            let (used, most) = (*counted, if kept && is_tunnel && goes_away { 4 } else { 2 });
            let heard = !unprocessed && sent_along;
            let want = is_tunnel && !heard && used < most;
            prop_assert_eq!(attempt.takes_another_tunnel(&error, age), want, "{:?} {:?}", error, age);
        }
        Ok(())
    });
}
