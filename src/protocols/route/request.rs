//! The inputs of a route besides the mesh.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{recorder::RouteRecorder, suspects::Suspicion};
use crate::protocols::mesh::Workload;

/// The pod that opens a connection.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The pod, as the mesh knows it.
    pub workload: &'a Workload,
    /// The address that the pod connects from.
    pub client: IpAddr,
}

/// The inputs of a choice among endpoints besides the mesh.
pub struct Pick<'a, R = ()> {
    /// The random number generator.
    pub rng: &'a mut dyn rand::RngCore,
    /// Addresses that no route may lead to, as endpoints there have failed. If nothing else is left,
    /// there is `RouteError::NoHealthyUpstream`.
    pub excluded: &'a [SocketAddr],
    /// Next hops that failed lately. Among endpoints of the same rank they are the last choice.
    pub suspicion: Option<Suspicion<'a>>,
    /// Hears what the route depends on.
    pub recorder: R,
}

// === impl Pick ===

impl<R: RouteRecorder> Pick<'_, R> {
    /// Whether `addr` must not be chosen.
    pub(super) fn excludes(&self, addr: SocketAddr) -> bool {
        self.excluded.contains(&addr)
    }

    /// Whether `workload`, dialled at `addr`, is passed over while there is another choice.
    pub(super) fn suspects(&self, workload: &Arc<Workload>, addr: SocketAddr) -> bool {
        self.suspicion.is_some_and(|suspicion| suspicion.falls_on(workload, addr))
    }
}
