//! What `/why` knows: the tables, the pods of this node, their tunnels and their certificates.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use serde_json::Value;

use super::{
    admin::why::{Explain, Question},
    control::certs::Certs,
    pods::{Pods, pod::Pod},
};
use crate::{
    dataplane::{config::DataPlaneConfig, mesh_view::MeshView},
    protocols::{
        addr::OrigDst,
        identity::Identity,
        mesh::Workload,
        route::Suspicion,
        why::{Here, Proxy, WhySettings, explain, explain_arrival},
    },
};

/// The parts of the process that explanations need. A clone is cheap.
#[derive(Clone)]
pub(crate) struct WhySources {
    /// The tables.
    pub(crate) mesh: MeshView,
    /// The certificates.
    pub(crate) certs: Certs,
    /// The pods of this node.
    pub(crate) pods: Pods,
}

// === impl WhySources ===

impl WhySources {
    /// Explains by these parts and by the settings of the data plane.
    pub(crate) fn explain(self, config: &DataPlaneConfig) -> Explain {
        let settings = WhySettings {
            ports: config.listen.ports,
            localhost_app_tunnel: config.listen.localhost_app_tunnel,
            ipv6: config.listen.ipv6_enabled,
            preferred_namespace: config.dns.as_ref().and_then(|dns| dns.dns.preferred_namespace.clone()),
            on_demand: self.mesh.on_demand().is_some(),
        };
        Arc::new(move |question| self.answer(&settings, question))
    }

    fn answer(&self, settings: &WhySettings, question: &Question) -> Result<Value, String> {
        let proxy = Proxy { mesh: self.mesh.tables(), settings, here: self };
        let shown = match question {
            Question::Connection { source, destination } => {
                let explained = explain(proxy, source, destination, &mut rand::rng());
                serde_json::to_value(explained.map_err(|error| error.to_string())?)
            }
            Question::Arrival(arrival) => serde_json::to_value(explain_arrival(proxy, arrival)),
        };
        shown.map_err(|error| error.to_string())
    }

    fn pod(&self, workload: &Workload) -> Option<Arc<Pod>> {
        self.pods.all().into_iter().find(|pod| {
            let info = &pod.id.info;
            info.name == workload.name()
                && info.namespace == workload.namespace()
                && info.service_account == workload.service_account()
        })
    }
}

impl Here for WhySources {
    fn pods(&self) -> Vec<String> {
        let mut names: Vec<String> = self.pods.all().iter().map(|pod| pod.id.name().to_string()).collect();
        names.sort_unstable();
        names
    }

    fn serves(&self, workload: &Workload) -> bool {
        self.pod(workload).is_some()
    }

    fn tunnels(&self, client: &Workload, to: SocketAddr) -> Option<usize> {
        let pod = self.pod(client)?;
        let mut open = 0;
        pod.conns().dialled.for_each(|tunnel| open += usize::from(tunnel.info().peer == to));
        Some(open)
    }

    fn lacks_certificate(&self, identity: &Identity) -> Option<String> {
        let status = self.certs.all().into_iter().find(|status| status.identity == *identity)?;
        match (status.cert, status.failure) {
            (Some(cert), _) if !cert.is_expired_at(SystemTime::now()) => None,
            (_, Some(failure)) => Some(failure.to_string()),
            (Some(_), None) => Some("it has expired".to_owned()),
            (None, None) => Some("it is being asked for".to_owned()),
        }
    }

    fn is_absent(&self, policy: &str) -> bool {
        self.mesh.missing_policies().is_absent(self.mesh.tables(), policy)
    }

    fn suspecting(&self, client: &Workload, asked: OrigDst, route: &mut dyn FnMut(Option<Suspicion<'_>>)) {
        match self.pod(client) {
            Some(pod) => pod.outbound.peers.suspicions.look(asked, route),
            None => route(None),
        }
    }
}
