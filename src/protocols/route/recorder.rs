//! What a route depends on, told to whoever explains the route.

use std::{net::SocketAddr, sync::Arc};

use super::hop::Upstream;
use crate::protocols::mesh::{Gateway, Service, Workload};

/// Hears what a route depends on. `()` hears nothing and costs nothing: the compiler leaves the calls out.
pub trait RouteRecorder {
    /// Whether anything is heard. What is looked at for a recorder alone is left out otherwise.
    const HEARS: bool;

    /// Hears a fact. Facts come in the order in which the route depends on them.
    fn hear(&mut self, fact: Fact<'_>);
}

/// Something that a route depends on.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    /// The address asked for belongs to a service.
    OfService(&'a Arc<Service>),
    /// The address asked for is a workload's own.
    OfWorkload(&'a Arc<Workload>),
    /// The mesh does not know the address asked for.
    OfNobody,
    /// The service asked for leaves its connections as they are.
    Passthrough(&'a Service),
    /// A waypoint is in front of the service asked for.
    ServiceWaypoint(&'a Service, &'a Gateway),
    /// A waypoint is in front of the workload asked for.
    WorkloadWaypoint(&'a Workload, &'a Gateway),
    /// The client itself is the waypoint in front of the workload asked for.
    ClientIsWaypoint(&'a Gateway),
    /// A gateway is in front of the network of a destination or waypoint.
    NetworkGateway(&'a Workload, &'a Gateway),
    /// A choice among the endpoints of a service begins. The port is the service's.
    Choice(&'a Service, u16),
    /// An endpoint of the choice that began last.
    Endpoint(&'a Arc<Workload>, &'a Examined),
    /// No endpoint of the choice can be used but through a gateway that cannot be used.
    LastResort,
    /// The workload that was chosen, or found by its address, and its port.
    Chosen(&'a Arc<Workload>, u16),
}

/// What a choice finds of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// The endpoint may be chosen.
    Eligible {
        /// The rank by nearness; the highest rank wins.
        rank: usize,
        /// What is dialled for the endpoint. `None`: the gateway of its network.
        to: Option<Upstream>,
        /// Whether the endpoint is passed over while there is another one, since it failed lately.
        suspect: bool,
    },
    /// The endpoint may not be chosen.
    PassedOver(PassedOver),
}

/// Why an endpoint may not be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PassedOver {
    /// Its share of the connections is none.
    #[error("its capacity is 0")]
    NoCapacity,
    /// The service wants a nearer one.
    #[error("it is too far away for the service's balancing")]
    TooFar,
    /// The workload is not ready.
    #[error("it is not ready")]
    NotReady,
    /// Neither the service nor the endpoint maps the port.
    #[error("it has no such port")]
    NoPort,
    /// The workload has neither an address nor a name.
    #[error("it has no address")]
    NoAddress,
    /// The gateway of its network is not known, or has failed.
    #[error("the gateway of its network cannot be used")]
    NoGateway,
    /// It has failed for this connection.
    #[error("it has failed for this connection")]
    Failed,
}

impl RouteRecorder for () {
    const HEARS: bool = false;

    #[inline]
    fn hear(&mut self, _: Fact<'_>) {}
}

impl<R: RouteRecorder> RouteRecorder for &mut R {
    const HEARS: bool = R::HEARS;

    #[inline]
    fn hear(&mut self, fact: Fact<'_>) {
        R::hear(self, fact);
    }
}

impl Examined {
    /// The address that is dialled, if the endpoint may be chosen and is dialled by an address.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Eligible { to: Some(Upstream::Ip(addr)), .. } => Some(*addr),
            _ => None,
        }
    }
}
