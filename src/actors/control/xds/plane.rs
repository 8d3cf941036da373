//! A control plane, tables and counters for tests. The test acts as the server, call by call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use prost_types::Any;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, service::Routes};

use super::{Bounds, Xds, XdsMetrics, XdsSettings, XdsStatus};
use crate::{
    actors::control::grpc::{
        AuthHeaders, GrpcTarget,
        peer::{Authority, Cert, Peer, serve},
    },
    protocols::{
        config::{Secret, TokenSource},
        pb::ads::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
        xds::{Later, Rejected, ResourceType, Sink, SinkDown, XdsState, backoff::Termination},
    },
    supervisor::{Backoff, Intensity, Strategy, SupervisorSpec, Tree},
};

/// The longest wait of a test.
const STUCK_AFTER: Duration = Duration::from_secs(60);

type Answers = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;
type Accept = oneshot::Sender<Result<mpsc::Receiver<Result<DeltaDiscoveryResponse, Status>>, Status>>;

/// The server of a test.
pub(super) struct Plane {
    pub(super) ca: Authority,
    pub(super) peer: Peer,
    calls: mpsc::Receiver<Call>,
}

/// A call for a stream that the test has neither accepted nor refused.
pub(super) struct Call {
    pub(super) metadata: MetadataMap,
    pub(super) sni: Option<String>,
    requests: Streaming<DeltaDiscoveryRequest>,
    accept: Accept,
}

/// An accepted stream, and the two requests that opened the stream.
pub(super) struct Stream {
    pub(super) hello: [DeltaDiscoveryRequest; 2],
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: Answers,
}

/// Tables that map a name to a version. The payload of a resource is its version.
#[derive(Clone)]
pub(super) struct Tables(Arc<TablesInner>);

struct TablesInner {
    held: Mutex<BTreeMap<String, String>>,
    /// The names of resources that were refused for a moment.
    tried: Mutex<BTreeSet<String>>,
    /// A permit for each response that may be applied.
    gate: Semaphore,
    entered: watch::Sender<usize>,
    fault: Mutex<Option<Fault>>,
}

/// The fault of the tables at the next response.
pub(super) enum Fault {
    Down,
    Panic,
}

/// The counters of a test.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) messages: Mutex<Vec<(String, usize)>>,
    pub(super) rejected: Mutex<Vec<usize>>,
    pub(super) ends: Mutex<Vec<Termination>>,
}

/// A running client of a test.
pub(super) struct Client {
    pub(super) xds: Xds,
    pub(super) tables: Tables,
    pub(super) counts: Arc<Counts>,
    pub(super) tree: Tree,
    pub(super) status: watch::Receiver<XdsStatus>,
}

struct Service(mpsc::Sender<Call>);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(STUCK_AFTER, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

pub(super) fn response(
    kind: ResourceType,
    nonce: &str,
    named: &[(&str, &str)],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    let resource = |&(name, version): &(&str, &str)| Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any { type_url: kind.type_url().into(), value: version.into() }),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        resources: named.iter().map(resource).collect(),
        removed_resources: removed.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(super) fn versions(request: &DeltaDiscoveryRequest) -> BTreeMap<&str, &str> {
    request.initial_resource_versions.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

// === impl Plane ===

impl Plane {
    pub(super) async fn start() -> Self {
        Self::with_cert(&Cert::of(&["localhost"])).await
    }

    pub(super) async fn with_cert(cert: &Cert<'_>) -> Self {
        let (tx, calls) = mpsc::channel(1);
        let ca = Authority::new();
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Service(tx)));
        let peer = serve(ca.config(cert), routes).await;
        Self { ca, peer, calls }
    }

    pub(super) fn target(&self) -> GrpcTarget {
        self.ca.target(&self.peer)
    }

    /// The next call for a stream.
    pub(super) async fn call(&mut self) -> Call {
        soon("a call", self.calls.recv()).await.unwrap()
    }

    /// Accepts the next call and returns the stream.
    pub(super) async fn stream(&mut self) -> Stream {
        self.call().await.accept().await
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (accept, accepted) = oneshot::channel();
        let metadata = request.metadata().clone();
        let sni = request.extensions().get::<Option<String>>().cloned().flatten();
        let call = Call { metadata, sni, requests: request.into_inner(), accept };
        self.0.send(call).await.map_err(|_| Status::internal("the test is over"))?;
        let answers = accepted.await.map_err(|_| Status::internal("the call was dropped"))??;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

// === impl Call ===

impl Call {
    /// Accepts the call: waits for the opening requests and then answers with headers, as servers do.
    pub(super) async fn accept(mut self) -> Stream {
        let mut next = async || soon("a request", self.requests.message()).await.unwrap().unwrap();
        let hello = [next().await, next().await];
        let (answers, rx) = mpsc::channel(4);
        assert!(self.accept.send(Ok(rx)).is_ok());
        Stream { hello, requests: self.requests, answers }
    }

    pub(super) fn refuse(self, status: Status) {
        assert!(self.accept.send(Err(status)).is_ok());
    }

    /// Waits until the client gives the call up.
    pub(super) async fn given_up(mut self) {
        soon("giving up", self.accept.closed()).await;
    }
}

// === impl Stream ===

impl Stream {
    pub(super) async fn send(&self, response: DeltaDiscoveryResponse) {
        self.answers.send(Ok(response)).await.unwrap();
    }

    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        soon("a request", self.requests.message()).await.unwrap().unwrap()
    }

    /// Sends `response` and returns the client's answer.
    pub(super) async fn push(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.send(response).await;
        self.request().await
    }

    /// Ends the stream with `status`, or with Ok.
    pub(super) async fn end(self, status: Option<Status>) {
        if let Some(status) = status {
            self.answers.send(Err(status)).await.unwrap();
        }
    }

    /// Waits until the client has closed its side.
    pub(super) async fn closed(mut self) {
        soon("closing", async { while let Ok(Some(_)) = self.requests.message().await {} }).await;
    }
}

// === impl Tables ===

impl Tables {
    fn new() -> Self {
        Self(Arc::new(TablesInner {
            held: Mutex::default(),
            tried: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            entered: watch::Sender::new(0),
            fault: Mutex::new(None),
        }))
    }

    pub(super) fn held(&self) -> BTreeMap<String, String> {
        self.0.held.lock().clone()
    }

    /// Stops the application of responses; each call of [`Tables::open_gate`] admits one.
    pub(super) fn close_gate(&self) {
        self.0.gate.forget_permits(usize::MAX);
    }

    /// Admits one more response.
    pub(super) fn open_gate(&self) {
        self.0.gate.add_permits(1);
    }

    /// Waits until `n` responses in total have reached the tables.
    pub(super) async fn entered(&self, n: usize) {
        soon("applying", self.0.entered.subscribe().wait_for(|entered| *entered >= n)).await.unwrap();
    }

    pub(super) fn fail_once(&self, fault: Fault) {
        *self.0.fault.lock() = Some(fault);
    }
}

impl Sink for Tables {
    /// Rejects a resource of version `bad` or without payload. A resource of version `later` is refused for a moment.
    async fn apply(
        &self,
        _: &str,
        resources: Vec<Resource>,
        removed: Vec<String>,
    ) -> Result<Vec<Rejected>, SinkDown> {
        self.0.entered.send_modify(|n| *n += 1);
        let fault = self.0.fault.lock().take();
        match fault {
            Some(Fault::Down) => return Err(SinkDown("the mesh is restarting".into())),
            Some(Fault::Panic) => panic!("a bug"),
            None => {}
        }
        self.0.gate.acquire().await.unwrap().forget();
        let mut held = self.0.held.lock();
        let mut rejected = Vec::new();
        for resource in resources {
            let payload = resource.resource.as_ref().map(|any| String::from_utf8(any.value.clone()).unwrap());
            let name = resource.name.clone();
            match payload {
                Some(version) if version == "later" && !self.0.tried.lock().remove(&name) => {
                    self.0.tried.lock().insert(name.clone());
                    let later = Some(Box::new(Later { resource, after: Duration::from_millis(50) }));
                    rejected.push(Rejected { name, reason: "not now".into(), applied: false, later });
                }
                Some(version) if version != "bad" => _ = held.insert(name, version),
                _ => rejected.push(Rejected {
                    name,
                    reason: "undecodable".into(),
                    applied: false,
                    later: None,
                }),
            }
        }
        for name in removed {
            held.remove(&name);
        }
        Ok(rejected)
    }
}

// === impl Counts ===

impl XdsMetrics for Counts {
    fn message(&self, type_url: &str, bytes: usize) {
        self.messages.lock().push((type_url.to_owned(), bytes));
    }

    fn applied(&self, _: &str, _: Duration) {}

    fn rejected(&self, _: &str, resources: usize) {
        self.rejected.lock().push(resources);
    }

    fn terminated(&self, reason: Termination) {
        self.ends.lock().push(reason);
    }
}

// === impl Client ===

pub(super) fn settings(target: GrpcTarget) -> XdsSettings {
    let token = TokenSource::Value(Secret::new("a-token"));
    let team = (HeaderName::from_static("x_team"), HeaderValue::from_static("mesh"));
    XdsSettings {
        target,
        headers: AuthHeaders::new(&token, "Kubernetes", &[team]).unwrap(),
        node: Node { id: "me".into(), ..Node::default() },
        on_demand: false,
        bounds: Bounds::STANDARD,
    }
}

impl Client {
    pub(super) async fn start(settings: XdsSettings) -> Self {
        let (tables, counts) = (Tables::new(), Arc::new(Counts::default()));
        let xds = Xds::new(settings, XdsState::new(), counts.clone());
        let root = SupervisorSpec::new("root", Strategy::OneForOne)
            .intensity(Intensity { restarts: 100, within: Duration::from_secs(1) })
            .backoff(Backoff { first: Duration::from_millis(1), cap: Duration::from_millis(1), jitter: 0.0 })
            .child(xds.child(tables.clone()));
        let tree = Tree::start(root).await.unwrap();
        let status = xds.state();
        Self { xds, tables, counts, tree, status }
    }

    pub(super) async fn until(&mut self, what: &str, is: impl FnMut(&XdsStatus) -> bool) {
        soon(what, self.status.wait_for(is)).await.unwrap();
    }

    /// Waits until the last failure contains `part`.
    pub(super) async fn until_error(&mut self, part: &str) {
        self.until(part, |s| s.last_error.as_deref().is_some_and(|e| e.contains(part))).await;
    }

    pub(super) fn ends(&self) -> Vec<Termination> {
        self.counts.ends.lock().clone()
    }

    pub(super) fn kinds_of_ends(&self) -> BTreeSet<&'static str> {
        self.ends().into_iter().map(Termination::as_str).collect()
    }
}
