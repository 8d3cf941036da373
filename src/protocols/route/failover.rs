//! Which endpoint is tried after another one has failed, and when a connection gives up.
//!
//! [`Failover`] is the state of one outbound connection. The caller asks it for an attempt ([`Failover::next`]), makes
//! the attempt, and tells it what failed ([`Failover::failed`]). Endpoints that failed for this connection are never
//! tried again. What other connections may learn from a failure is its [`Finding`].

#[cfg(test)]
pub(super) mod tests;

use std::{net::SocketAddr, time::Duration};

use super::{
    error::RouteError,
    hop::{Hop, Route, Upstream},
    local::is_at_destination,
    suspects::Finding,
};
use crate::protocols::{
    addr::HboneAddr,
    hbone::client::ConnectError,
    outcome::{Cause, Failure, Outcome, Unroutable},
};

/// Bounds of trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailoverLimits {
    /// Endpoints tried for one connection.
    pub endpoints: usize,
    /// New tunnels to one endpoint tried for one connection, where the tunnel itself fails.
    pub tunnels: usize,
    /// Kept tunnels to one endpoint tried for one connection, where each turns out to be on its way out.
    pub kept_tunnels: usize,
    /// How long an endpoint may take while another endpoint can be had.
    pub slow_after: Duration,
}

/// The attempts of one connection.
#[derive(Debug)]
pub(crate) struct Failover {
    limits: FailoverLimits,
    attempts: usize,
    /// Endpoints that failed for this connection.
    failed: Vec<SocketAddr>,
}

/// One attempt to reach an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The number of the attempt; the first is 1.
    pub number: usize,
    /// No other endpoint is tried after this one.
    pub is_last: bool,
    /// How long the endpoint may take before [`Failover::replaces_slow`] is asked.
    pub slow_after: Duration,
    tunnels_left: usize,
    kept_tunnels_left: usize,
}

/// How a request got its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelAge {
    /// The pool held the tunnel, which may have been on its way out.
    Kept,
    /// The tunnel was dialled for the request, or the request waited for the tunnel.
    New,
}

/// Why no further attempt is made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAttempt {
    /// The connection has no route.
    #[error(transparent)]
    Unroutable(RouteError),
    /// Every endpoint has failed. The failure of the last one has been reported already.
    #[error(transparent)]
    AllFailed(RouteError),
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Ask for another attempt.
    TryNext,
    /// The connection fails with the error of this attempt.
    GiveUp,
}

/// What an error permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The application has certainly received nothing: another endpoint may be tried.
    Safe,
    /// The application may have received what was sent along: another endpoint may be tried if nothing was.
    UnlessSent,
    /// Another endpoint would not help, or must not be asked.
    Never,
}

/// What an attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingFor {
    /// The certificate of the pod itself. No endpoint is to blame, and no other one would be faster.
    Certificate,
    /// The endpoint.
    Endpoint,
}

/// What an error says of the tunnel that carried the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelHealth {
    /// The tunnel works.
    Sound,
    /// The tunnel may be broken: other tunnels are preferred until it has answered a PING.
    Doubtful,
    /// The tunnel takes no further streams.
    Ending,
}

/// Why an attempt failed. Becomes the [`Outcome`] of the connection if it was the last one.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The endpoint has only a name, which did not resolve.
    #[error(transparent)]
    Unresolved(Unroutable),
    /// The gateway of another network did not open the way to the destination.
    #[error("{0}")]
    Gateway(#[source] ConnectError),
    /// There is no inner tunnel to the destination behind a gateway.
    #[error(transparent)]
    Inner(Failure),
    /// The TCP connection to the endpoint failed.
    #[error(transparent)]
    Connect(Failure),
    /// The TCP connection was slow, and another endpoint was to be had.
    #[error("{to}: no answer within {after:?}")]
    SlowConnect {
        /// The endpoint.
        to: SocketAddr,
        /// How long the endpoint had.
        after: Duration,
    },
    /// There is no tunnel to the endpoint.
    #[error(transparent)]
    Tunnel(Failure),
    /// There is no tunnel for a reason that lies here, so that another endpoint would not help.
    #[error(transparent)]
    NoTunnel(Failure),
    /// The pod's own network, certificate or tunnels are the reason. Another endpoint may help, and this one is not to
    /// blame.
    #[error(transparent)]
    OwnFault(Failure),
    /// The tunnel was slow, and another endpoint was to be had.
    #[error("{to}: no tunnel within {after:?}")]
    SlowTunnel {
        /// The endpoint.
        to: SocketAddr,
        /// How long the endpoint had.
        after: Duration,
    },
    /// The CONNECT failed.
    #[error("{error}")]
    Request {
        /// The error of the CONNECT.
        #[source]
        error: ConnectError,
        /// What the client had said went along.
        sent_along: bool,
    },
    /// The CONNECT was not answered in time.
    #[error("{to}: no answer to CONNECT within {after:?}")]
    NoAnswer {
        /// The endpoint.
        to: SocketAddr,
        /// How long the endpoint had.
        after: Duration,
        /// What the client had said went along.
        sent_along: bool,
    },
    /// The destination is a pod of this process, whose side refused as its proxy would have by this status.
    #[error("http status: {0}")]
    Refused(u16),
    /// The destination is a pod of this process, whose side of the connection was cut.
    #[error("the destination's side was cut")]
    Cut,
}

/// The status by which a peer says that it could not reach the application (docs/spec/dataplane.md 2.4).
/// No limit: a status code.
const UNAVAILABLE: u16 = 503;

// === impl FailoverLimits ===

impl FailoverLimits {
    /// The bounds in use.
    /// Limit: attempts of one connection: 3 endpoints, 2 new and 64 kept tunnels to each, 1 s while another endpoint can
    /// be had; past it: the last failure is the connection's.
    pub(crate) const STANDARD: Self =
        Self { endpoints: 3, tunnels: 2, kept_tunnels: 64, slow_after: Duration::from_secs(1) };
}

// === impl Failover ===

impl Failover {
    /// A connection that has made no attempt yet.
    pub(crate) fn new(limits: FailoverLimits) -> Self {
        Self { limits, attempts: 0, failed: Vec::new() }
    }

    /// The next attempt, and its route. `route` finds a route that leads to none of the given addresses.
    ///
    /// # Errors
    /// There is no route; see [`NoAttempt`].
    pub(crate) fn next(
        &mut self,
        route: impl FnOnce(&[SocketAddr]) -> Result<Route, RouteError>,
    ) -> Result<(Attempt, Route), NoAttempt> {
        self.attempts += 1;
        match route(&self.failed) {
            Ok(route) => Ok((self.attempt(&route), route)),
            Err(error @ RouteError::NoHealthyUpstream(_)) if !self.failed.is_empty() => {
                Err(NoAttempt::AllFailed(error))
            }
            Err(error) => Err(NoAttempt::Unroutable(error)),
        }
    }

    /// The number of the attempt made last; 0 before the first.
    pub(crate) fn attempts(&self) -> usize {
        self.attempts
    }

    /// Whether `attempt`, which has waited for `slow_after`, is given up for another endpoint than `to`. A suspect
    /// is better than an endpoint that does not answer. `route` is as in [`Failover::next`].
    pub(crate) fn replaces_slow(
        &self,
        attempt: &Attempt,
        to: SocketAddr,
        waiting: WaitingFor,
        route: impl FnOnce(&[SocketAddr]) -> Result<Route, RouteError>,
    ) -> bool {
        waiting == WaitingFor::Endpoint
            && !attempt.is_last
            && route(&[self.failed.as_slice(), &[to]].concat()).is_ok()
    }

    /// What to do after `attempt`, which was made to `to`, has failed with `error`.
    pub(crate) fn failed(&mut self, attempt: &Attempt, to: SocketAddr, error: &AttemptError) -> AfterFailure {
        if attempt.is_last || !error.permits_retry() {
            return AfterFailure::GiveUp;
        }
        self.failed.push(to);
        AfterFailure::TryNext
    }

    fn attempt(&self, route: &Route) -> Attempt {
        // Without a service there is one endpoint, but the waypoint before it may have several instances.
        let has_others = route.service.is_some() || is_by_waypoint(&route.hop);
        Attempt {
            number: self.attempts,
            is_last: self.attempts >= self.limits.endpoints || !has_others,
            slow_after: self.limits.slow_after,
            tunnels_left: self.limits.tunnels,
            kept_tunnels_left: self.limits.kept_tunnels,
        }
    }
}

/// Whether the hop leads to a waypoint at a known address, and not to the destination itself.
fn is_by_waypoint(hop: &Hop) -> bool {
    match hop {
        Hop::Hbone { to: Upstream::Ip(to), authority, .. } => !is_at_destination(*to, authority),
        _ => false,
    }
}

// === impl Attempt ===

impl Attempt {
    /// Whether what the client has said so far may go along with the CONNECT for `authority` to `to`. Only the proxy of
    /// the destination itself gets it, as waypoints and gateways may be set to refuse it.
    pub(crate) fn sends_early_data(&self, to: SocketAddr, authority: &HboneAddr) -> bool {
        is_at_destination(to, authority)
    }

    /// Whether the request that has failed with `error` on a tunnel of this age is made again through another tunnel to
    /// the same endpoint. A tunnel that went away between being picked and being used has carried nothing.
    pub(crate) fn takes_another_tunnel(&mut self, error: &AttemptError, age: TunnelAge) -> bool {
        // All kept tunnels of a peer may be on their way out. Each that fails is not picked again.
        let was_leaving = age == TunnelAge::Kept && error.tunnel_health() == TunnelHealth::Ending;
        let left = if was_leaving { &mut self.kept_tunnels_left } else { &mut self.tunnels_left };
        *left = left.saturating_sub(1);
        let is_tunnel = matches!(error, AttemptError::Request { error: ConnectError::Tunnel { .. }, .. });
        is_tunnel && error.permits_retry() && *left > 0
    }
}

// === impl NoAttempt ===

impl From<NoAttempt> for Outcome {
    fn from(none: NoAttempt) -> Self {
        let (NoAttempt::Unroutable(error) | NoAttempt::AllFailed(error)) = none;
        Unroutable::from(error).into()
    }
}

// === impl RouteError ===

impl From<RouteError> for Unroutable {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::Recursive => Self::Recursive,
            RouteError::UnknownWaypoint(what) => Self::UnknownWaypoint(what.into()),
            RouteError::NoHealthyUpstream(dst) => Self::NoHealthyUpstream(dst.to_string().into()),
            RouteError::NoAddress(what) => Self::NoAddresses(what.into()),
            RouteError::UnknownGateway(_) | RouteError::NoGateway(_) | RouteError::OtherNetwork(_) => {
                Self::NoHealthyUpstream(Cause::of(error))
            }
        }
    }
}

// === impl AttemptError ===

impl AttemptError {
    /// What the error permits. Nothing has been sent to any application before a CONNECT.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unresolved(_) | Self::NoTunnel(_) => Retry::Never,
            // A gateway is asked before the destination is.
            Self::Gateway(_) | Self::Inner(_) => Retry::Safe,
            Self::Connect(_)
            | Self::SlowConnect { .. }
            | Self::Tunnel(_)
            | Self::SlowTunnel { .. }
            | Self::OwnFault(_)
            | Self::Cut => Retry::Safe,
            Self::Request { error, .. } => match error {
                ConnectError::LocalAuthority(_) => Retry::Never,
                ConnectError::PeerStatus(status) => Retry::of_status(status.as_u16()),
                ConnectError::Tunnel { unprocessed: true, .. } => Retry::Safe,
                ConnectError::Tunnel { unprocessed: false, .. } => Retry::UnlessSent,
            },
            Self::NoAnswer { .. } => Retry::UnlessSent,
            Self::Refused(status) => Retry::of_status(*status),
        }
    }

    /// What the error says of the tunnel that carried the request.
    pub fn tunnel_health(&self) -> TunnelHealth {
        match self {
            // Picked again, a tunnel on its way out would fail every connection until its last stream ends.
            Self::Request { error: ConnectError::Tunnel { error, .. }, .. }
            | Self::Gateway(ConnectError::Tunnel { error, .. })
                if error.is_go_away() || error.is_io() =>
            {
                TunnelHealth::Ending
            }
            Self::Request { error: ConnectError::Tunnel { .. }, .. }
            | Self::Gateway(ConnectError::Tunnel { .. })
            | Self::NoAnswer { .. } => TunnelHealth::Doubtful,
            _ => TunnelHealth::Sound,
        }
    }

    /// The reason as a label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unresolved(_) => "name",
            Self::Inner(_) => "inner_tunnel",
            Self::Connect(_) => "connect",
            Self::SlowConnect { .. } | Self::SlowTunnel { .. } => "slow",
            Self::Tunnel(_) => "tunnel",
            Self::NoTunnel(_) | Self::OwnFault(_) => "own_fault",
            Self::Refused(_) => "status",
            Self::Request { error, .. } | Self::Gateway(error) => match error {
                ConnectError::LocalAuthority(_) => "authority",
                ConnectError::PeerStatus(_) => "status",
                ConnectError::Tunnel { .. } => "stream",
            },
            Self::NoAnswer { .. } => "no_answer",
            Self::Cut => "cut",
        }
    }

    /// What the error says of the next hop.
    pub fn finding(&self) -> Finding {
        match self {
            Self::Unresolved(_) | Self::NoTunnel(_) | Self::OwnFault(_) => Finding::Nothing,
            Self::Connect(_) | Self::SlowConnect { .. } | Self::Tunnel(_) | Self::SlowTunnel { .. } => {
                Finding::HopFailed
            }
            Self::Request { error, .. } | Self::Gateway(error) => match error {
                ConnectError::LocalAuthority(_) => Finding::Nothing,
                ConnectError::PeerStatus(status) => finding_of_status(status.as_u16()),
                ConnectError::Tunnel { .. } if self.tunnel_health() == TunnelHealth::Ending => {
                    Finding::HopFailed
                }
                ConnectError::Tunnel { .. } => Finding::DestinationFailed,
            },
            // PINGs tell whether a peer still answers.
            Self::NoAnswer { .. } | Self::Inner(_) | Self::Cut => Finding::DestinationFailed,
            Self::Refused(status) => finding_of_status(*status),
        }
    }

    /// The same error of a request that asked a gateway for the way to the destination. Nothing has been sent to any
    /// application, so another endpoint may be tried whatever the gateway has answered.
    pub(crate) fn of_gateway(self) -> Self {
        match self {
            Self::Request { error, .. } => Self::Gateway(error),
            other => other,
        }
    }

    fn permits_retry(&self) -> bool {
        match self.retry() {
            Retry::Safe => true,
            Retry::UnlessSent => !self.sent_along(),
            Retry::Never => false,
        }
    }

    fn sent_along(&self) -> bool {
        matches!(self, Self::Request { sent_along: true, .. } | Self::NoAnswer { sent_along: true, .. })
    }
}

impl From<AttemptError> for Outcome {
    fn from(error: AttemptError) -> Self {
        let failure = match error {
            AttemptError::Unresolved(why) => return why.into(),
            AttemptError::Connect(failure)
            | AttemptError::Tunnel(failure)
            | AttemptError::NoTunnel(failure)
            | AttemptError::OwnFault(failure)
            | AttemptError::Inner(failure) => failure,
            AttemptError::SlowConnect { .. } | AttemptError::SlowTunnel { .. } => {
                Failure::Dial(Cause::of(error))
            }
            AttemptError::Refused(status) => Failure::Status(status),
            AttemptError::Request { error, .. } | AttemptError::Gateway(error) => match error {
                ConnectError::PeerStatus(status) => Failure::Status(status.as_u16()),
                ConnectError::Tunnel { error, .. } => Failure::H2(Cause::of(error)),
                error @ ConnectError::LocalAuthority(_) => Failure::H2(Cause::of(error)),
            },
            AttemptError::NoAnswer { .. } | AttemptError::Cut => Failure::H2(Cause::of(error)),
        };
        failure.into()
    }
}

/// What a peer's answer says. A refusal is meant, and concerns the client as much as the destination.
fn finding_of_status(status: u16) -> Finding {
    if status == UNAVAILABLE { Finding::DestinationFailed } else { Finding::Nothing }
}

// === impl Retry ===

impl Retry {
    /// What a peer's answer permits. Only [`UNAVAILABLE`] says that another endpoint may do what this one cannot.
    fn of_status(status: u16) -> Self {
        if status == UNAVAILABLE { Self::Safe } else { Self::Never }
    }
}
