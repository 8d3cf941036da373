//! The discovery stream's server side (docs/spec/controlplane.md 2.3 and 2.4, docs/spec/protos.md 4).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::resources::{ADDRESS, AUTHORIZATION, Belongs, Resource, Resources};
use crate::{
    protocols::pb::ads::{
        self, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
    supervisor::OwnedTask,
};

/// A response stays below this, as clients may refuse more than 4 MiB.
const RESPONSE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// The largest size of a resource beyond its name, version and value.
const RESOURCE_OVERHEAD: usize = 96;
/// The number of responses that a slow client may leave unread.
const RESPONSE_QUEUE: usize = 4;
/// The number of refusals that are remembered.
const NACKS: usize = 256;

/// A refusal by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The client's own name for itself.
    pub node: String,
    /// The type of the refused response.
    pub type_url: String,
    /// The client's text for the refusal.
    pub message: String,
}

/// One client, and the state of its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The client's own name for itself; empty until its first request.
    pub node: String,
    /// The node that the client claims to be on.
    pub node_name: String,
    /// The types that the client asked for.
    pub types: Vec<String>,
    /// The number of responses that the client has not answered.
    pub unanswered: usize,
    /// The number of the mesh state that the client was last sent, counted from 1.
    generation: u64,
}

/// The clients and the answers of all streams.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The clients, by the number of their stream.
    clients: HashMap<u64, Client>,
    /// The number of streams opened since the start.
    pub streams: u64,
    /// The number of names that were asked for one by one since the start.
    pub names: u64,
    /// The number of acknowledgements since the start.
    pub acks: u64,
    /// The number of refusals since the start.
    pub nacks: u64,
    /// The latest refusals, oldest first.
    pub latest_nacks: VecDeque<Nack>,
}

/// The state of the mesh, and its number.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) resources: Arc<Resources>,
}

/// The discovery service. A clone is cheap.
#[derive(Clone)]
pub(super) struct Discovery {
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) mute: watch::Receiver<bool>,
    pub(super) seen: Arc<watch::Sender<Seen>>,
}

/// The pure state that one stream keeps of its client.
#[derive(Debug, Default)]
struct Subscriber {
    /// The client's node, whose workloads the client gets unasked.
    node: String,
    types: BTreeMap<String, Subscription>,
    nonce: u64,
    unanswered: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    /// The names, or aliases, that the client asked for one by one.
    names: BTreeSet<String>,
    /// The resources that the client holds: the content of each one, `None` if its version does not tell the content.
    held: BTreeMap<String, Option<u64>>,
}

/// The answer in a request to an earlier response.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    None,
    Ack,
    Nack(String),
}

/// The responses to one client, and the task that makes them.
pub(crate) struct Responses {
    stream: ReceiverStream<Result<DeltaDiscoveryResponse, Status>>,
    _task: OwnedTask,
}

/// One stream, while its task runs.
struct Session {
    number: u64,
    discovery: Discovery,
    subscriber: Subscriber,
    client: Client,
}

// === impl Seen ===

impl Seen {
    /// The clients that are connected now.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.values()
    }

    /// Whether there is a client, and every client has asked for both types, was sent the given state of the mesh,
    /// and has answered.
    pub(super) fn settled(&self, generation: u64) -> bool {
        let done = |client: &Client| {
            let asked =
                [ADDRESS, AUTHORIZATION].iter().all(|wanted| client.types.iter().any(|t| t == wanted));
            asked && client.generation >= generation && client.unanswered == 0
        };
        !self.clients.is_empty() && self.clients.values().all(done)
    }
}

// === impl Subscriber ===

impl Subscriber {
    /// Takes in a request, and returns the responses to send.
    fn on_request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        resources: &Resources,
    ) -> (Verdict, Vec<DeltaDiscoveryResponse>) {
        let verdict = match &request.error_detail {
            _ if !self.unanswered.remove(&request.response_nonce) => Verdict::None,
            Some(error) => Verdict::Nack(error.message.clone()),
            None => Verdict::Ack,
        };
        let (subscribe, unsubscribe) =
            (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        if let Some(subscription) = self.types.get_mut(&request.type_url) {
            for name in unsubscribe {
                subscription.names.remove(name);
            }
            let new = subscribe.iter().filter(|name| *name != "*");
            // As with istiod, a subscription that is there already gets no answer.
            let new: Vec<String> = new.filter(|name| !subscription.names.contains(*name)).cloned().collect();
            subscription.names.extend(new.iter().cloned());
            let responses = if new.is_empty() {
                Vec::new()
            } else {
                self.answer_names(&request.type_url, &new, resources)
            };
            return (verdict, responses);
        }
        let held = request.initial_resource_versions.keys();
        let star = |names: &[String]| names.iter().any(|name| name == "*");
        let subscription = Subscription {
            wildcard: (subscribe.is_empty() || star(subscribe)) && !star(unsubscribe),
            // What a client holds, or has asked for before, it goes on asking for.
            names: subscribe.iter().chain(held).filter(|name| *name != "*").cloned().collect(),
            held: request
                .initial_resource_versions
                .iter()
                .map(|(name, version)| (name.clone(), u64::from_str_radix(version, 16).ok()))
                .collect(),
        };
        self.types.insert(request.type_url.clone(), subscription);
        (verdict, self.difference(&request.type_url, resources, true))
    }

    /// The responses to send because the mesh has changed.
    fn on_change(&mut self, resources: &Resources) -> Vec<DeltaDiscoveryResponse> {
        let types: Vec<String> = self.types.keys().cloned().collect();
        types.iter().flat_map(|type_url| self.difference(type_url, resources, false)).collect()
    }

    /// The responses that bring the client to the state of the mesh; at least an empty response if `always` is set.
    fn difference(
        &mut self,
        type_url: &str,
        resources: &Resources,
        always: bool,
    ) -> Vec<DeltaDiscoveryResponse> {
        let (Some(subscription), Some(all)) = (self.types.get_mut(type_url), resources.of_type(type_url))
        else {
            return Vec::new();
        };
        let node = &self.node;
        let wanted = |name: &String, resource: &Resource| {
            subscription.wildcard || subscription.wants(name, resource, node)
        };
        let new = |name: &String, resource: &Resource| {
            subscription.held.get(name).is_none_or(|held| *held != Some(resource.content))
        };
        let changed: Vec<(&String, &Resource)> =
            all.iter().filter(|(name, resource)| wanted(name, resource) && new(name, resource)).collect();
        let removed: Vec<String> =
            subscription.held.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
        for name in &removed {
            subscription.held.remove(name);
        }
        subscription.held.extend(changed.iter().map(|(name, r)| ((*name).clone(), Some(r.content))));
        if changed.is_empty() && removed.is_empty() && !always {
            return Vec::new();
        }
        self.responses(type_url, changed, removed)
    }

    /// Answers a request for single names. An unknown name counts as removed.
    fn answer_names(
        &mut self,
        type_url: &str,
        names: &[String],
        resources: &Resources,
    ) -> Vec<DeltaDiscoveryResponse> {
        let (Some(subscription), Some(all)) = (self.types.get_mut(type_url), resources.of_type(type_url))
        else {
            return Vec::new();
        };
        let mut missing = Vec::new();
        for name in names {
            let named = all.get_key_value(name);
            match named.or_else(|| all.iter().find(|(_, resource)| resource.aliases.contains(name))) {
                Some((found, _)) => drop(subscription.names.insert(found.clone())),
                None => missing.push(name.clone()),
            }
        }
        let news: Vec<(&String, &Resource)> = all
            .iter()
            .filter(|(name, resource)| subscription.wants(name, resource, &self.node))
            .filter(|(name, resource)| subscription.held.get(*name) != Some(&Some(resource.content)))
            .collect();
        for (name, resource) in &news {
            subscription.held.insert((*name).clone(), Some(resource.content));
        }
        // What was asked for is sent also if the client holds it.
        let again = all.iter().filter(|(name, resource)| {
            let asked = names.contains(name) || resource.aliases.iter().any(|alias| names.contains(alias));
            asked && !news.iter().any(|(sent, _)| sent == name)
        });
        let found = again.chain(news.iter().copied()).collect();
        self.responses(type_url, found, missing)
    }

    /// Splits resources into responses below the size limit; returns at least one response.
    fn responses(
        &mut self,
        type_url: &str,
        resources: Vec<(&String, &Resource)>,
        removed: Vec<String>,
    ) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let (mut response, mut size) = (self.response(type_url), 0);
        for name in removed {
            if size + name.len() + RESOURCE_OVERHEAD > RESPONSE_BYTES {
                responses.push(std::mem::replace(&mut response, self.response(type_url)));
                size = 0;
            }
            size += name.len() + RESOURCE_OVERHEAD;
            response.removed_resources.push(name);
        }
        for (name, resource) in resources {
            let aliases: usize = resource.aliases.iter().map(|alias| alias.len() + 4).sum();
            let more =
                name.len() + resource.version.len() + resource.value.len() + aliases + RESOURCE_OVERHEAD;
            if size + more > RESPONSE_BYTES && size > 0 {
                responses.push(std::mem::replace(&mut response, self.response(type_url)));
                size = 0;
            }
            size += more;
            response.resources.push(ads::Resource {
                version: resource.version.clone(),
                resource: Some(prost_types::Any {
                    type_url: type_url.into(),
                    value: resource.value.to_vec(),
                }),
                name: name.clone(),
                aliases: resource.aliases.clone(),
                ..Default::default()
            });
        }
        responses.push(response);
        responses
    }

    fn response(&mut self, type_url: &str) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        self.unanswered.insert(nonce.clone());
        DeltaDiscoveryResponse { type_url: type_url.into(), nonce, ..Default::default() }
    }
}

// === impl Subscription ===

impl Subscription {
    /// Whether a client on `node` that asks for single names gets the resource: by its name or alias, as an endpoint of
    /// a service asked for, or as a workload of its node.
    fn wants(&self, name: &str, resource: &Resource, node: &str) -> bool {
        let belongs = |belongs: &Belongs| {
            (belongs.node == node && !node.is_empty())
                || belongs.services.iter().any(|service| self.names.contains(service))
        };
        self.names.contains(name)
            || resource.aliases.iter().any(|alias| self.names.contains(alias))
            || resource.belongs.as_ref().is_some_and(belongs)
    }
}

// === impl Discovery ===

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (out, stream) = mpsc::channel(RESPONSE_QUEUE);
        let mut number = 0;
        self.seen.send_modify(|seen| {
            seen.streams += 1;
            number = seen.streams;
            seen.clients.insert(number, Client::default());
        });
        let session = Session {
            number,
            discovery: self.clone(),
            subscriber: Subscriber::default(),
            client: Client::default(),
        };
        let task = session.run(request.into_inner(), out);
        let task = OwnedTask::spawn(format!("lab/xds/{number}"), task, |_| {});
        Ok(Response::new(Responses { stream: ReceiverStream::new(stream), _task: task }))
    }
}

// === impl Session ===

impl Session {
    async fn run(
        mut self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        out: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let (mut snapshot, mut mute) = (self.discovery.snapshot.clone(), self.discovery.mute.clone());
        loop {
            // A muted server reads nothing either.
            if mute.wait_for(|mute| !*mute).await.is_err() {
                return;
            }
            let responses = tokio::select! {
                // The mute is polled first, so that a muted stream sends nothing.
                biased;
                changed = mute.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                request = requests.next() => {
                    let Some(Ok(request)) = request else { return };
                    let now = snapshot.borrow().clone();
                    self.requested(&request, &now)
                }
                changed = snapshot.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = snapshot.borrow_and_update().clone();
                    self.client.generation = now.generation;
                    self.subscriber.on_change(&now.resources)
                }
            };
            self.client.unanswered = self.subscriber.unanswered.len();
            self.note();
            for response in responses {
                if out.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn requested(&mut self, request: &DeltaDiscoveryRequest, now: &Snapshot) -> Vec<DeltaDiscoveryResponse> {
        if let Some(node) = &request.node {
            self.client.node = node.id.clone();
            let name =
                node.metadata.as_ref().and_then(|m| m.fields.get("NODE_NAME")).and_then(|v| v.kind.as_ref());
            if let Some(prost_types::value::Kind::StringValue(name)) = name {
                self.client.node_name = name.clone();
                self.subscriber.node = name.clone();
            }
        }
        let names = request.resource_names_subscribe.iter().filter(|name| *name != "*").count();
        self.discovery.seen.send_modify(|seen| seen.names += names as u64);
        let (verdict, responses) = self.subscriber.on_request(request, &now.resources);
        self.client.types = self.subscriber.types.keys().cloned().collect();
        // A change that the stream has not noticed yet will be sent separately. A client that was never sent anything
        // is not behind.
        if self.client.generation == 0 {
            self.client.generation = now.generation;
        }
        self.judged(&request.type_url, verdict);
        responses
    }

    fn judged(&self, type_url: &str, verdict: Verdict) {
        match verdict {
            Verdict::None => {}
            Verdict::Ack => self.discovery.seen.send_modify(|seen| seen.acks += 1),
            Verdict::Nack(message) => {
                let nack = Nack { node: self.client.node.clone(), type_url: type_url.into(), message };
                tracing::warn!(node = %nack.node, type_url, "refused by the client: {}", nack.message);
                self.discovery.seen.send_modify(|seen| {
                    seen.nacks += 1;
                    if seen.latest_nacks.len() == NACKS {
                        seen.latest_nacks.pop_front();
                    }
                    seen.latest_nacks.push_back(nack);
                });
            }
        }
    }

    fn note(&self) {
        self.discovery.seen.send_modify(|seen| {
            seen.clients.insert(self.number, self.client.clone());
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.discovery.seen.send_modify(|seen| {
            seen.clients.remove(&self.number);
        });
    }
}

// === impl Responses ===

impl Stream for Responses {
    type Item = Result<DeltaDiscoveryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.stream).poll_next(cx)
    }
}

#[cfg(test)]
mod tests;
