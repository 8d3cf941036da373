//! Each decision on trying again, one a line, with its reason.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use h2::Reason;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::protocols::{
    addr::OrigDst,
    mesh::fixtures::{addr, service},
    outcome::ResponseFlag,
    route::{Hop, Upstream},
};

const LIMITS: FailoverLimits =
    FailoverLimits { endpoints: 3, tunnels: 2, kept_tunnels: 4, slow_after: Duration::from_secs(1) };

/// Endpoints of a service: a route leads to the first one that is not excluded.
struct Endpoints(Vec<SocketAddr>);

impl Endpoints {
    fn new(endpoints: &[&str]) -> Self {
        Self(endpoints.iter().map(|text| addr(text)).collect())
    }

    fn route(&self, excluded: &[SocketAddr]) -> Result<Route, RouteError> {
        match self.0.iter().find(|endpoint| !excluded.contains(endpoint)) {
            Some(endpoint) => {
                Ok(Route { service: Some(Arc::new(service("a.b", "10.1.0.1").decode())), ..to(*endpoint) })
            }
            None => Err(nothing_left()),
        }
    }
}

/// A route without a service.
fn to(endpoint: SocketAddr) -> Route {
    Route { hop: Hop::Tcp { to: Upstream::Ip(endpoint) }, destination: None, service: None }
}

fn nothing_left() -> RouteError {
    RouteError::NoHealthyUpstream(OrigDst::new(addr("10.1.0.1:80")))
}

fn endpoint(route: &Route) -> SocketAddr {
    match route.hop.upstream() {
        Upstream::Ip(addr) => *addr,
        Upstream::Host { .. } => panic!("{route:?}"),
    }
}

fn refused() -> AttemptError {
    AttemptError::Connect(Failure::Dial(Cause::of(io::Error::from(io::ErrorKind::ConnectionRefused))))
}

fn own_fault() -> AttemptError {
    AttemptError::OwnFault(Failure::Dial(Cause::of(io::Error::from(io::ErrorKind::NetworkUnreachable))))
}

fn tunnel_failed(unprocessed: bool, sent_along: bool) -> AttemptError {
    let error = ConnectError::Tunnel { error: Reason::INTERNAL_ERROR.into(), unprocessed };
    AttemptError::Request { error, sent_along }
}

fn status(status: StatusCode, sent_along: bool) -> AttemptError {
    AttemptError::Request { error: ConnectError::PeerStatus(status), sent_along }
}

/// A peer that has said something in HTTP/2, and then ended or broken the connection.
struct Said {
    left: &'static [u8],
    breaks: bool,
}

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() && self.breaks {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        into.put_slice(std::mem::take(&mut self.left));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a tunnel ends whose peer has said `left`.
fn end_of(left: &'static [u8], breaks: bool) -> h2::Error {
    let mut cx = Context::from_waker(Waker::noop());
    let mut ending =
        std::pin::pin!(async move { h2::client::handshake(Said { left, breaks }).await?.1.await });
    loop {
        if let Poll::Ready(ended) = ending.as_mut().poll(&mut cx) {
            return ended.unwrap_err();
        }
    }
}

/// The error of a tunnel that broke.
pub(in crate::protocols::route) fn broken() -> h2::Error {
    let error = end_of(&[], true);
    assert!(error.is_io() && !error.is_go_away());
    error
}

/// The error of a tunnel whose peer took its leave: SETTINGS, and GOAWAY with ENHANCE_YOUR_CALM.
pub(in crate::protocols::route) fn left() -> h2::Error {
    let said = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";
    let error = end_of(said, false);
    assert!(error.is_go_away() && !error.is_io());
    error
}

/// The endpoints that a connection tries while each fails with `refused`, and how it ends.
fn tries(endpoints: &Endpoints) -> (Vec<String>, Result<AfterFailure, NoAttempt>) {
    let (mut failover, mut tried) = (Failover::new(LIMITS), Vec::new());
    loop {
        let (attempt, route) = match failover.next(|excluded| endpoints.route(excluded)) {
            Ok(next) => next,
            Err(none) => return (tried, Err(none)),
        };
        tried.push(endpoint(&route).to_string());
        assert_eq!((attempt.number, failover.attempts()), (tried.len(), tried.len()));
        if failover.failed(&attempt, endpoint(&route), &refused()) == AfterFailure::GiveUp {
            return (tried, Ok(AfterFailure::GiveUp));
        }
    }
}

#[test]
fn endpoints_are_tried_in_this_order() {
    let (a, b, c, d) = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80");
    let all_failed = || Err(NoAttempt::AllFailed(nothing_left()));
    let give_up = || Ok(AfterFailure::GiveUp);
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Result<AfterFailure, NoAttempt>);
    let table: [Row<'_>; 4] = [
        ("at most three endpoints are tried", &[a, b, c, d], &[a, b, c], give_up()),
        ("the last one's failure has been reported already", &[a, b], &[a, b], all_failed()),
        ("one endpoint is tried once", &[a], &[a], all_failed()),
        ("without an endpoint there is no route", &[], &[], Err(NoAttempt::Unroutable(nothing_left()))),
    ];
    for (why, endpoints, want, end) in table {
        let got = tries(&Endpoints::new(endpoints));
        assert_eq!(got, (want.iter().map(|text| (*text).to_owned()).collect(), end), "{why}");
    }
}

#[test]
fn a_route_without_a_service_is_tried_once_unless_there_is_another_waypoint() {
    let pod = HboneAddr::Ip(addr("10.0.0.9:80"));
    let hbone = |to: SocketAddr| Hop::Hbone {
        to: Upstream::Ip(to),
        authority: pod.clone(),
        sans: Default::default(),
    };
    let tcp = |to: SocketAddr| Hop::Tcp { to: Upstream::Ip(to) };
    let named = |_: SocketAddr| Hop::Tcp {
        to: Upstream::Host { host: "waypoint.example".into(), port: 15008, prefer_v6: false },
    };
    let waypoints = ["10.0.0.1:15008", "10.0.0.2:15008"];
    type Row<'a> = (&'a dyn Fn(SocketAddr) -> Hop, &'a [&'a str], usize, &'a str);
    let table: [Row<'_>; 5] = [
        (&tcp, &["10.0.0.9:80"], 1, "an address of no service"),
        (&hbone, &["10.0.0.9:15008"], 1, "a workload's own proxy"),
        (&hbone, &waypoints, 2, "each instance of a workload's waypoint"),
        (&hbone, &waypoints[..1], 1, "the only instance of a waypoint"),
        (&named, &waypoints, 1, "a waypoint that has only a name"),
    ];
    for (hop, hops, want, why) in table {
        let route = |excluded: &[SocketAddr]| {
            let free = hops.iter().map(|hop| addr(hop)).find(|hop| !excluded.contains(hop));
            let route = |to| Route { hop: hop(to), destination: None, service: None };
            free.map(route).ok_or_else(nothing_left)
        };
        let (mut failover, mut tried) = (Failover::new(LIMITS), 0);
        while let Ok((attempt, _)) = failover.next(route) {
            let to = addr(hops[tried]);
            tried += 1;
            let is_replaced = failover.replaces_slow(&attempt, to, WaitingFor::Endpoint, route);
            assert_eq!(is_replaced, tried < want, "{why}");
            if failover.failed(&attempt, to, &refused()) == AfterFailure::GiveUp {
                break;
            }
        }
        assert_eq!(tried, want, "{why}");
    }
}

#[test]
fn an_error_of_routing_other_than_no_endpoint_ends_the_connection() {
    let none = Failover::new(LIMITS).next(|_| Err(RouteError::Recursive));
    assert_eq!(none.unwrap_err(), NoAttempt::Unroutable(RouteError::Recursive));
}

#[test]
fn each_error_permits_what_it_says_of_the_application() {
    use Retry::*;
    use TunnelHealth::*;
    let to = addr("10.0.0.1:15008");
    let after = Duration::from_secs(1);
    let authority = || ConnectError::LocalAuthority("x".into());
    // Error; what it permits; whether another endpoint is tried if there is one; what it says of the tunnel; why.
    let table: [(AttemptError, Retry, bool, TunnelHealth, &str); 23] = [
        (
            AttemptError::Unresolved(Unroutable::NoAddresses("h".into())),
            Never,
            false,
            Sound,
            "names are not balanced",
        ),
        (
            status(StatusCode::NOT_FOUND, false).of_gateway(),
            Safe,
            true,
            Sound,
            "a gateway speaks for itself, and another one may know the way",
        ),
        (
            tunnel_failed(false, false).of_gateway(),
            Safe,
            true,
            Doubtful,
            "a gateway delivers nothing by itself",
        ),
        (AttemptError::Inner(Failure::Tls("alert".into())), Safe, true, Sound, "no request without a tunnel"),
        (refused(), Safe, true, Sound, "without a connection nothing was sent"),
        (AttemptError::SlowConnect { to, after }, Safe, true, Sound, "as before"),
        (
            AttemptError::Tunnel(Failure::Tls("alert".into())),
            Safe,
            true,
            Sound,
            "no request without a tunnel",
        ),
        (AttemptError::SlowTunnel { to, after }, Safe, true, Sound, "as before"),
        (AttemptError::NoTunnel(Failure::Identity("none".into())), Never, false, Sound, "the reason is here"),
        (own_fault(), Safe, true, Sound, "another endpoint may have a route"),
        (
            AttemptError::Request { error: authority(), sent_along: false },
            Never,
            false,
            Sound,
            "the same for every peer",
        ),
        (
            status(StatusCode::SERVICE_UNAVAILABLE, false),
            Safe,
            true,
            Sound,
            "the peer did not reach the application",
        ),
        (status(StatusCode::SERVICE_UNAVAILABLE, true), Safe, true, Sound, "and so has passed nothing on"),
        (status(StatusCode::UNAUTHORIZED, false), Never, false, Sound, "a refusal is meant"),
        (status(StatusCode::BAD_REQUEST, false), Never, false, Sound, "a refusal is meant"),
        (tunnel_failed(true, false), Safe, true, Doubtful, "the peer has not processed the request"),
        (tunnel_failed(true, true), Safe, true, Doubtful, "nor what went along"),
        (
            tunnel_failed(false, false),
            UnlessSent,
            true,
            Doubtful,
            "nothing went along that could have arrived",
        ),
        (
            tunnel_failed(false, true),
            UnlessSent,
            false,
            Doubtful,
            "sent twice, a request could be done twice",
        ),
        (AttemptError::NoAnswer { to, after, sent_along: false }, UnlessSent, true, Doubtful, "as before"),
        (AttemptError::NoAnswer { to, after, sent_along: true }, UnlessSent, false, Doubtful, "as before"),
        (AttemptError::Refused(503), Safe, true, Sound, "as a proxy of its own would answer"),
        (AttemptError::Refused(401), Never, false, Sound, "as a proxy of its own would answer"),
    ];
    for (error, retry, tries_next, health, why) in &table {
        assert_eq!((error.retry(), error.tunnel_health()), (*retry, *health), "{error:?}: {why}");
        let (endpoints, mut failover) =
            (Endpoints::new(&["10.0.0.1:80", "10.0.0.2:80"]), Failover::new(LIMITS));
        let (attempt, route) = failover.next(|excluded| endpoints.route(excluded)).unwrap();
        let verdict = failover.failed(&attempt, endpoint(&route), error);
        assert_eq!(verdict == AfterFailure::TryNext, *tries_next, "{error:?}: {why}");
    }
    let cut = AttemptError::Cut;
    assert_eq!(
        (cut.retry(), cut.tunnel_health()),
        (Safe, Sound),
        "bytes move only after both sides are ready"
    );
}

#[test]
fn each_error_blames_what_failed_and_nobody_else() {
    use Finding::*;
    let to = addr("10.0.0.1:15008");
    let after = Duration::from_secs(1);
    let request = |error: ConnectError| AttemptError::Request { error, sent_along: false };
    let table: [(AttemptError, Finding, &str); 16] = [
        (AttemptError::Unresolved(Unroutable::NoAddresses("h".into())), Nothing, "no next hop was asked"),
        (
            status(StatusCode::SERVICE_UNAVAILABLE, false).of_gateway(),
            DestinationFailed,
            "the gateway has answered",
        ),
        (AttemptError::Inner(Failure::Tls("x".into())), DestinationFailed, "the gateway has opened the way"),
        (AttemptError::NoTunnel(Failure::Identity("none".into())), Nothing, "the pod has no certificate"),
        (own_fault(), Nothing, "the pod has no route"),
        (request(ConnectError::LocalAuthority("x".into())), Nothing, "nothing was sent"),
        (refused(), HopFailed, "the next hop said so"),
        (AttemptError::SlowConnect { to, after }, HopFailed, "it did not answer"),
        (AttemptError::Tunnel(Failure::Tls("alert".into())), HopFailed, "it did not complete the handshake"),
        (AttemptError::SlowTunnel { to, after }, HopFailed, "it did not answer"),
        (tunnel_failed(false, false), DestinationFailed, "the tunnel lives"),
        (status(StatusCode::SERVICE_UNAVAILABLE, false), DestinationFailed, "the next hop answered"),
        (AttemptError::Refused(503), DestinationFailed, "as a proxy of its own would answer"),
        (status(StatusCode::UNAUTHORIZED, false), Nothing, "the client was refused"),
        (AttemptError::NoAnswer { to, after, sent_along: false }, DestinationFailed, "PINGs judge the way"),
        (AttemptError::Cut, DestinationFailed, "the way is within this process"),
    ];
    for (error, want, why) in table {
        assert_eq!(error.finding(), want, "{error:?}: {why}");
    }
}

#[test]
fn a_tunnel_that_broke_or_goes_away_gets_no_more_streams_and_is_to_blame() {
    let request = |error, unprocessed| AttemptError::Request {
        error: ConnectError::Tunnel { error, unprocessed },
        sent_along: true,
    };
    let stream = || h2::Error::from(Reason::REFUSED_STREAM);
    for (error, health, finding) in [
        (broken(), TunnelHealth::Ending, Finding::HopFailed),
        (left(), TunnelHealth::Ending, Finding::HopFailed),
        (stream(), TunnelHealth::Doubtful, Finding::DestinationFailed),
    ] {
        let error = request(error, true);
        assert_eq!((error.tunnel_health(), error.finding()), (health, finding), "{error:?}");
        let error = error.of_gateway();
        assert_eq!((error.tunnel_health(), error.finding()), (health, finding), "{error:?}");
    }
    // A kept tunnel on its way out is no failure of the peer: as many are tried as the pool may hold.
    let endpoints = Endpoints::new(&["10.0.0.1:80"]);
    for (age, error, want) in [
        (TunnelAge::Kept, left as fn() -> h2::Error, [true, true, true, false]),
        (TunnelAge::Kept, broken, [true, true, true, false]),
        (TunnelAge::New, left, [true, false, false, false]),
        (TunnelAge::Kept, stream, [true, false, false, false]),
    ] {
        let (mut attempt, _) = Failover::new(LIMITS).next(|excluded| endpoints.route(excluded)).unwrap();
        let takes = |()| attempt.takes_another_tunnel(&request(error(), true), age);
        assert_eq!([(); 4].map(takes), want, "{age:?} {:?}", error());
    }
    let (mut attempt, _) = Failover::new(LIMITS).next(|excluded| endpoints.route(excluded)).unwrap();
    assert!(
        !attempt.takes_another_tunnel(&request(left(), false), TunnelAge::Kept),
        "it may have been heard"
    );
}

#[test]
fn each_error_has_a_reason_for_metrics() {
    let (to, after) = (addr("10.0.0.1:15008"), Duration::from_secs(1));
    let request = |error: ConnectError| AttemptError::Request { error, sent_along: false };
    for (error, want) in [
        (AttemptError::Unresolved(Unroutable::NoAddresses("h".into())), "name"),
        (AttemptError::Inner(Failure::Tls("x".into())), "inner_tunnel"),
        (refused(), "connect"),
        (AttemptError::SlowConnect { to, after }, "slow"),
        (AttemptError::SlowTunnel { to, after }, "slow"),
        (AttemptError::Tunnel(Failure::Tls("x".into())), "tunnel"),
        (AttemptError::NoTunnel(Failure::Identity("none".into())), "own_fault"),
        (own_fault(), "own_fault"),
        (AttemptError::Refused(503), "status"),
        (request(ConnectError::LocalAuthority("x".into())), "authority"),
        (status(StatusCode::FORBIDDEN, false), "status"),
        (status(StatusCode::FORBIDDEN, false).of_gateway(), "status"),
        (tunnel_failed(false, false), "stream"),
        (AttemptError::NoAnswer { to, after, sent_along: false }, "no_answer"),
        (AttemptError::Cut, "cut"),
    ] {
        assert_eq!(error.reason(), want, "{error:?}");
    }
}

#[test]
fn only_a_failed_tunnel_is_replaced_and_once() {
    let endpoints = Endpoints::new(&["10.0.0.1:80"]);
    let to = addr("10.0.0.1:15008");
    let table: [(AttemptError, [bool; 2], &str); 5] = [
        (tunnel_failed(true, true), [true, false], "the tunnel went away before the request"),
        (tunnel_failed(false, false), [true, false], "nothing was sent along"),
        (tunnel_failed(false, true), [false, false], "what was sent along may have arrived"),
        (status(StatusCode::SERVICE_UNAVAILABLE, false), [false, false], "the tunnel works"),
        (
            AttemptError::NoAnswer { to, after: LIMITS.slow_after, sent_along: false },
            [false, false],
            "the endpoint has had its time",
        ),
    ];
    for (error, want, why) in table {
        let mut failover = Failover::new(LIMITS);
        let (mut attempt, _) = failover.next(|excluded| endpoints.route(excluded)).unwrap();
        let takes = |()| attempt.takes_another_tunnel(&error, TunnelAge::New);
        assert_eq!([(); 2].map(takes), want, "{error:?}: {why}");
    }
}

#[test]
fn a_slow_endpoint_is_given_up_only_for_another_one() {
    let (a, b) = ("10.0.0.1:80", "10.0.0.2:80");
    use WaitingFor::*;
    type Row<'a> = (&'a [&'a str], WaitingFor, bool, &'a str);
    let table: [Row<'_>; 3] = [
        (&[a, b], Endpoint, true, "the other one may be faster"),
        (&[a], Endpoint, false, "the last one is waited for as long as it may take"),
        (&[a, b], Certificate, false, "no endpoint would be faster"),
    ];
    for (endpoints, waiting, want, why) in table {
        let endpoints = Endpoints::new(endpoints);
        let mut failover = Failover::new(LIMITS);
        let (attempt, route) = failover.next(|excluded| endpoints.route(excluded)).unwrap();
        let slow = endpoint(&route);
        assert_eq!(
            failover.replaces_slow(&attempt, slow, waiting, |excluded| endpoints.route(excluded)),
            want,
            "{why}"
        );
        assert_eq!(attempt.slow_after, LIMITS.slow_after);
    }
}

#[test]
fn early_data_goes_to_the_destinations_own_proxy_only() {
    let endpoints = Endpoints::new(&["10.0.0.1:80"]);
    let (attempt, _) = Failover::new(LIMITS).next(|excluded| endpoints.route(excluded)).unwrap();
    let own = HboneAddr::Ip(addr("10.0.0.1:80"));
    for (to, authority, want) in [
        ("10.0.0.1:15008", &own, true),
        ("10.0.0.2:15008", &own, false),
        ("10.0.0.1:15443", &own, false),
        ("10.0.0.1:15008", &HboneAddr::Host("a.b".into(), 80), false),
    ] {
        assert_eq!(attempt.sends_early_data(addr(to), authority), want, "{to} {authority}");
    }
}

#[test]
fn an_error_becomes_an_outcome_with_its_flag_and_text() {
    let (to, after) = (addr("10.0.0.1:80"), Duration::from_secs(1));
    use ResponseFlag::*;
    let table = [
        (
            AttemptError::Unresolved(Unroutable::NoAddresses("h".into())),
            Connect,
            "no ip addresses were resolved for workload: h",
        ),
        (status(StatusCode::NOT_FOUND, false).of_gateway(), Connect, "http status: 404"),
        (AttemptError::Inner(Failure::Tls("alert".into())), TlsFailure, "tls error: alert"),
        (refused(), Connect, "connection failed: connection refused"),
        (
            AttemptError::SlowConnect { to, after },
            Connect,
            "connection failed: 10.0.0.1:80: no answer within 1s",
        ),
        (
            AttemptError::SlowTunnel { to, after },
            Connect,
            "connection failed: 10.0.0.1:80: no tunnel within 1s",
        ),
        (AttemptError::NoTunnel(Failure::Identity("none".into())), IdentityError, "identity error: none"),
        (status(StatusCode::SERVICE_UNAVAILABLE, false), Connect, "http status: 503"),
        (AttemptError::Refused(401), Connect, "http status: 401"),
        (
            AttemptError::Request { error: ConnectError::LocalAuthority("x".into()), sent_along: false },
            H2HandshakeFailure,
            "h2 failed: invalid authority: x",
        ),
        (
            AttemptError::NoAnswer { to, after, sent_along: true },
            H2HandshakeFailure,
            "h2 failed: 10.0.0.1:80: no answer to CONNECT within 1s",
        ),
        (AttemptError::Cut, H2HandshakeFailure, "h2 failed: the destination's side was cut"),
    ];
    for (error, flag, text) in table {
        let outcome = Outcome::from(error);
        assert_eq!((outcome.flag(), outcome.to_string().as_str()), (flag, text));
    }
}
