//! The workload of a pod, as the control plane describes it.

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

use super::PodId;
use crate::{
    dataplane::{config::DataPlaneConfig, mesh_view::MeshView, on_demand::Discoveries},
    protocols::{
        hbone::headers::Baggage,
        identity::{Identity, IdentityError},
        mesh::{Mesh, Workload, WorkloadInfo},
        outcome::Unroutable,
        peer_text::PeerText,
    },
};

/// The workload of a pod. The workload that was found last is kept until the next push.
pub(crate) struct PodWorkload {
    /// The pod's id.
    pub(crate) id: Arc<PodId>,
    /// The mesh in which the workload is looked up.
    pub(crate) mesh: MeshView,
    config: Arc<DataPlaneConfig>,
    /// The workload, and the version of the tables in which it was found.
    last: Mutex<Option<(u64, Arc<Workload>)>>,
    /// The last baggage header that was encoded, and the workload it describes.
    baggage: Mutex<Option<(Arc<Workload>, Option<HeaderValue>)>>,
    discoveries: Discoveries,
}

// === impl PodWorkload ===

impl PodWorkload {
    /// The workload of the pod `id`. The lookup in `mesh` happens when a caller asks for the workload.
    pub(crate) fn new(id: Arc<PodId>, mesh: MeshView, config: Arc<DataPlaneConfig>) -> Arc<Self> {
        let (last, baggage, discoveries) = (Mutex::default(), Mutex::default(), Discoveries::default());
        Arc::new(Self { id, mesh, config, last, baggage, discoveries })
    }

    /// The workload. Waits if the control plane has not sent the workload yet.
    ///
    /// # Errors
    /// The workload did not appear in time.
    pub(crate) async fn wait(&self) -> Result<Arc<Workload>, Unroutable> {
        if let Some(workload) = self.now() {
            return Ok(workload);
        }
        if let Some(on_demand) = self.mesh.on_demand() {
            on_demand.hint_pod(&self.id.info);
        }
        let found = self.mesh.wait_for(self.config.timeouts.workload, || self.now()).await;
        found.ok_or_else(|| {
            let WorkloadInfo { name, namespace, service_account } = &self.id.info;
            Unroutable::UnknownLocalWorkload(format!("{service_account}.{namespace} ({name})").into())
        })
    }

    /// Has the control plane asked for the addresses that `missing` finds to be missing, if addresses come on demand, and
    /// waits for the answers.
    ///
    /// # Errors
    /// There is no answer in time, or no question.
    pub(crate) async fn discover(&self, missing: impl Fn(&Mesh) -> Vec<String>) -> Result<(), Unroutable> {
        let Some(on_demand) = self.mesh.on_demand() else { return Ok(()) };
        let within = self.config.timeouts.workload;
        on_demand.fill(self.mesh.tables(), &self.discoveries, within, missing).await
    }

    /// Has the control plane asked for the addresses that `missing` finds to be missing, and waits for nothing.
    pub(crate) fn discover_later(&self, missing: impl Fn(&Mesh) -> Vec<String>) {
        if let Some(on_demand) = self.mesh.on_demand() {
            on_demand.hint(missing(self.mesh.tables()));
        }
    }

    /// The workload, if the workload is known. The lookup is repeated only after a push.
    pub(crate) fn now(&self) -> Option<Arc<Workload>> {
        let version = self.mesh.version();
        let mut last = self.last.lock();
        if let Some((at, workload)) = &*last
            && *at == version
        {
            return Some(workload.clone());
        }
        let found = self.mesh.tables().local_workload(&self.id.info)?;
        *last = Some((version, found.clone()));
        Some(found)
    }

    /// The current workload, or the workload that was found last if the control plane has withdrawn the workload.
    pub(crate) fn now_or_last(&self) -> Option<Arc<Workload>> {
        self.now().or_else(|| self.last.lock().as_ref().map(|(_, workload)| workload.clone()))
    }

    /// The baggage header that describes `workload` in the answer to a CONNECT, if the configuration allows the header.
    pub(crate) fn answer_baggage(&self, workload: &Arc<Workload>) -> Option<HeaderValue> {
        self.config.listen.baggage.then(|| self.baggage(workload)).flatten()
    }

    /// The baggage header that describes `workload` in a CONNECT. The header is encoded once for each workload.
    pub(crate) fn baggage(&self, workload: &Arc<Workload>) -> Option<HeaderValue> {
        let mut cached = self.baggage.lock();
        if let Some((whose, value)) = &*cached
            && Arc::ptr_eq(whose, workload)
        {
            return value.clone();
        }
        let value = baggage(workload);
        *cached = Some((workload.clone(), value.clone()));
        value
    }

    /// The pod's identity: the namespace and service account of the handover, in the trust domain of `workload`.
    ///
    /// # Errors
    /// The parts do not form a valid identity.
    pub(crate) fn identity(&self, workload: &Workload) -> Result<Identity, IdentityError> {
        let (known, info) = (workload.identity(), &self.id.info);
        if known.namespace() == info.namespace && known.service_account() == info.service_account {
            return Ok(known.clone());
        }
        Identity::new(workload.trust_domain(), &info.namespace, &info.service_account)
    }
}

fn baggage(workload: &Workload) -> Option<HeaderValue> {
    let place = workload.place();
    let baggage = Baggage {
        cluster: PeerText::new(&place.cluster_id),
        namespace: workload.namespace().into(),
        workload: workload.workload_name().into(),
        service: workload.canonical_name().into(),
        revision: workload.canonical_revision().into(),
        region: PeerText::new(&place.region),
        zone: PeerText::new(&place.zone),
    };
    baggage.encode(workload.workload_type().as_str())
}
