//! The mesh actor is the only writer of the mesh tables. The tables outlive the actor: readers see stale tables
//! rather than no tables.

use std::{sync::Arc, time::Duration};

use prost::Message;
use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tracing::Instrument;

use super::certs::Certs;
use crate::{
    actors::quarantine::{AdmittedInput, InQuarantine, Input, Quarantine, digest},
    protocols::{
        mesh::{
            Applied, CHANGES_PER_TURN, Change, Mesh, MeshWriter,
            policy::{Faults, Policy, PolicyChange},
            push_order,
        },
        pb::{ads::Resource, workload::Address as PbAddress},
        xds::{Later, Rejected, ResourceType, Sink, SinkDown},
    },
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described},
    sys::memory,
};

/// The longest time in which one push must be applied. The largest push takes much less than a second.
/// Limit: one push in the mesh actor: 60 s; past it: the stream is given up, and the watchdog has the actor killed.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// The number of resources in a push from which the allocator gives back free memory after the push is applied.
/// Limit: resources of a push after which the allocator keeps what it freed: 512; past it: the allocator gives memory
/// back to the kernel.
const LARGE_PUSH: usize = 512;

/// The kind of a resource as an input of the quarantine.
const RESOURCE: &str = "resource";

/// The reason why a resource without a payload is refused.
const EMPTY: &str = "the resource is empty";

/// The handle of the mesh actor, which applies decoded resources. A clone is cheap.
#[derive(Clone)]
pub(crate) struct MeshTables {
    mesh: Mesh,
    certs: Certs,
    changed: Arc<watch::Sender<u64>>,
    quarantine: Quarantine,
    address: Address<Msg>,
    /// The permit for one push at a time: a stream that was given up may have left a push behind.
    turn: Arc<Semaphore>,
}

/// Messages of the mesh actor.
pub(crate) enum Msg {
    /// Apply one response of the control plane. Only one permit exists, so at most one message is outstanding.
    Apply(Push, OwnedSemaphorePermit, RpcReplyPort<Vec<Rejected>>),
}

/// The resources of one response.
pub(crate) struct Push {
    kind: ResourceType,
    resources: Vec<Resource>,
    removed: Vec<String>,
}

struct MeshActor(MeshTables);

/// The reason why a resource is not applied, and the rest of its quarantine if the resource is quarantined.
struct Refused {
    reason: String,
    retry_in: Option<Duration>,
}

// === impl MeshTables ===

impl MeshTables {
    /// Makes a handle whose actor writes to `mesh` and tells `certs` which identities the node needs. `quarantine`
    /// holds resources that crash the actor.
    pub(crate) fn new(mesh: Mesh, certs: Certs, quarantine: Quarantine) -> Self {
        let (changed, turn) = (Arc::new(watch::Sender::new(0)), Arc::new(Semaphore::new(1)));
        Self { mesh, certs, changed, quarantine, address: Address::new("mesh"), turn }
    }

    /// A number that changes after every applied push.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The actor, as a child of a supervisor.
    pub(crate) fn child(&self) -> ChildSpec {
        let tables = self.clone();
        ChildSpec::actor("mesh", &self.address, move || (MeshActor(tables.clone()), ()))
            .kind_label("mesh")
            .hung_after(APPLY_TIMEOUT)
    }

    fn learn(&self, applied: &Applied) {
        for identity in &applied.identities_vanished {
            self.certs.forget(identity);
        }
        for identity in &applied.identities_appeared {
            self.certs.prefetch(identity);
        }
    }
}

impl Sink for MeshTables {
    async fn apply(
        &self,
        type_url: &str,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> Result<Vec<Rejected>, SinkDown> {
        let Some(kind) = ResourceType::ALL.into_iter().find(|kind| kind.type_url() == type_url) else {
            return Ok(Vec::new());
        };
        let push = Push { kind, resources, removed };
        let turn = timeout(APPLY_TIMEOUT, self.turn.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(SinkDown(format!("the push before was not applied within {APPLY_TIMEOUT:?}")));
        };
        let applied = self.address.call(APPLY_TIMEOUT, |reply| Msg::Apply(push, turn, reply)).await;
        applied.map_err(|error| SinkDown(error.to_string()))
    }
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match self {
            Self::Apply(push, ..) if push.kind == ResourceType::Authorization => "apply-policies",
            Self::Apply(..) => "apply-addresses",
        }
    }
}

impl Actor for MeshActor {
    type Msg = Msg;
    type State = MeshWriter;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<MeshWriter, ActorProcessingErr> {
        Ok(self.0.mesh.writer())
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        Msg::Apply(push, _turn, reply): Msg,
        writer: &mut MeshWriter,
    ) -> Result<(), ActorProcessingErr> {
        let (resources, removed) = (push.resources.len(), push.removed.len());
        let span =
            tracing::debug_span!(target: "mesh", "apply", kind = push.kind.type_url(), resources, removed);
        let rejected = match push.kind {
            ResourceType::Address => self.apply_addresses(push, writer).instrument(span).await,
            ResourceType::Authorization => self.apply_policies(push, writer),
        };
        self.0.changed.send_modify(|pushes| *pushes += 1);
        // If the caller is gone, no acknowledgement is sent. The next connection sends unacknowledged resources
        // again.
        let _ = reply.send(rejected);
        if resources >= LARGE_PUSH {
            memory::give_back();
        }
        Ok(())
    }
}

impl MeshActor {
    async fn apply_addresses(&self, push: Push, writer: &mut MeshWriter) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut changes = Vec::with_capacity(push.resources.len());
        let mut inputs = Vec::with_capacity(push.resources.len());
        for (index, resource) in push.resources.into_iter().enumerate() {
            let digest = digest(&payload(&resource));
            let decode = |bytes: &[u8]| {
                let address = PbAddress::decode(bytes).map_err(|error| error.to_string())?;
                Change::decode(address).map_err(|error| error.to_string())
            };
            match self.decode(&resource, digest, decode) {
                Ok(change) => {
                    changes.push(change);
                    inputs.push((resource.name, digest));
                }
                Err(refused) => rejected.push(refused.of(resource)),
            }
            if index % CHANGES_PER_TURN == CHANGES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        // The updates precede the removals, in the order of `inputs`.
        let mut inputs = inputs.into_iter();
        let mut changes = push_order(changes, push.removed).peekable();
        let mut applied = Applied::default();
        while changes.peek().is_some() {
            // Each change that the writer takes gets a new guard, so a panic is attributed to the change that is
            // being applied.
            let done: Vec<(String, u64)> = inputs.by_ref().take(CHANGES_PER_TURN).collect();
            let mut begun = done.iter();
            let mut guard = None;
            let slice = changes.by_ref().take(CHANGES_PER_TURN).inspect(|_| {
                drop(guard.take());
                let admitted = begun.next().and_then(|(name, digest)| self.input(name, *digest).ok());
                guard = admitted.map(AdmittedInput::guard);
            });
            applied.merge(writer.apply(slice));
            drop(guard);
            for (name, _) in &done {
                self.0.quarantine.forgive(RESOURCE, name);
            }
            tokio::task::yield_now().await;
        }
        self.0.learn(&applied);
        rejected
    }

    fn apply_policies(&self, push: Push, writer: &mut MeshWriter) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut changes = Vec::with_capacity(push.resources.len() + push.removed.len());
        let brought: std::collections::HashSet<String> =
            push.resources.iter().map(|resource| resource.name.clone()).collect();
        for resource in push.resources {
            let digest = digest(&payload(&resource));
            let held = self.0.mesh.policies().get(&resource.name).is_some();
            match self.read_policy(&resource, digest) {
                Ok((policy, faults)) => {
                    self.0.quarantine.forgive(RESOURCE, &resource.name);
                    // The last good version says more than bytes that are no policy.
                    let keep = faults.is_whole() && held;
                    if !faults.is_empty() {
                        let refused = Refused { reason: faults.to_string(), retry_in: None };
                        rejected.push(Rejected { applied: !keep, ..refused.of(resource) });
                    }
                    if !keep {
                        changes.push(PolicyChange::Upsert(policy));
                    }
                }
                Err(refused) => {
                    if !held {
                        changes.push(PolicyChange::Upsert(Policy::unread(&resource.name)));
                    }
                    rejected.push(Rejected { applied: !held, ..refused.of(resource) });
                }
            }
        }
        let removed = push.removed.into_iter().filter(|name| !brought.contains(name));
        changes.extend(removed.map(PolicyChange::Remove));
        if !changes.is_empty() {
            writer.set_policies(Arc::new(self.0.mesh.policies().with(changes)));
        }
        writer.answered_policies();
        rejected
    }

    /// Reads the policy, unless the resource is quarantined. An empty resource is refused.
    fn read_policy(&self, resource: &Resource, digest: u64) -> Result<(Policy, Faults), Refused> {
        let admitted = self.input(&resource.name, digest)?;
        let _guard = admitted.guard();
        match payload(resource) {
            Some(bytes) => Ok(Policy::read(&resource.name, bytes)),
            None => Err(Refused { reason: EMPTY.to_owned(), retry_in: None }),
        }
    }

    /// Decodes the resource, unless the resource is quarantined.
    fn decode<T>(
        &self,
        resource: &Resource,
        digest: u64,
        decode: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Refused> {
        let admitted = self.input(&resource.name, digest)?;
        let _guard = admitted.guard();
        let payload = payload(resource).ok_or_else(|| EMPTY.to_owned());
        payload.and_then(decode).map_err(|reason| Refused { reason, retry_in: None })
    }

    fn input<'a>(&'a self, name: &'a str, digest: u64) -> Result<AdmittedInput<'a>, InQuarantine> {
        self.0.quarantine.enter(Input { kind: RESOURCE, name, digest })
    }
}

// === impl Refused ===

impl From<InQuarantine> for Refused {
    fn from(aside: InQuarantine) -> Self {
        Self { reason: aside.to_string(), retry_in: Some(aside.retry_in) }
    }
}

impl Refused {
    fn of(self, resource: Resource) -> Rejected {
        let name = resource.name.clone();
        let later = self.retry_in.map(|after| Box::new(Later { resource, after }));
        Rejected { name, reason: self.reason, later, applied: false }
    }
}

fn payload(resource: &Resource) -> Option<&[u8]> {
    resource.resource.as_ref().map(|any| &*any.value)
}

#[cfg(test)]
mod tests;
