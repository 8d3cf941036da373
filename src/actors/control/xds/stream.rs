//! One discovery stream, from the connect to the end of the stream.

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::client::{Bounds, Xds};
use crate::{
    actors::control::grpc::{self, MAX_RESPONSE_BYTES},
    protocols::{
        pb::ads::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        xds::{
            Rejected, ResourceType, Sink,
            backoff::End,
            delta::{self, Apply, DeltaStream, Pending, Step},
        },
    },
};

/// The number of queued requests that are not yet on the wire. A stream begins with two requests and then queues one
/// answer at a time.
/// Limit: discovery requests that are not on the wire: 8; past it: the stream waits, then is given up.
const REQUESTS_MAX: usize = 8;

/// An open stream, on which requests can be sent.
struct Conversation<'a, S> {
    xds: &'a Xds,
    sink: &'a S,
    delta: DeltaStream,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    _connected: Connected<'a>,
}

/// A guard: the status shows the stream as connected while the guard lives.
struct Connected<'a>(&'a Xds);

/// Connects and applies responses until the stream ends. Returns the end of the stream.
pub(super) async fn run<S: Sink>(xds: &Xds, sink: &S) -> End {
    let settings = &xds.0.settings;
    tracing::debug!(target: "xds", control_plane = %settings.target, "connecting");
    let channel = match grpc::connect(&settings.target).await {
        Ok(channel) => channel,
        Err(e) if e.is_local() => return End::Local(e.to_string()),
        Err(e) => return End::Refused { code: None, error: e.to_string() },
    };
    let now = Instant::now().into_std();
    let (delta, hello) = DeltaStream::open(xds.0.held.clone(), &settings.node, settings.on_demand, now);
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let queue = RequestQueue { sender: requests.clone(), receiver };
    let deadline = Instant::now() + settings.bounds.first_answer;
    match open(xds, channel, queue, hello, deadline).await {
        Ok(inbound) => {
            let conversation = Conversation { xds, sink, delta, requests, _connected: Connected::new(xds) };
            conversation.run(inbound, deadline).await
        }
        Err(end) => {
            delta.ended(&end);
            end
        }
    }
}

/// The two ends of the queue of requests.
struct RequestQueue {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    receiver: mpsc::Receiver<DeltaDiscoveryRequest>,
}

/// Opens the stream. The first requests are queued before, as a server may send its headers only with the first
/// response.
async fn open(
    xds: &Xds,
    channel: Channel,
    queue: RequestQueue,
    hello: Vec<DeltaDiscoveryRequest>,
    deadline: Instant,
) -> Result<Streaming<DeltaDiscoveryResponse>, End> {
    let settings = &xds.0.settings;
    for request in hello {
        queue.sender.try_send(request).map_err(|e| End::Stalled(e.to_string()))?;
    }
    let request = Request::new(ReceiverStream::new(queue.receiver));
    let request = timeout_at(deadline, settings.headers.sign(request))
        .await
        .map_err(|_| mute(&settings.bounds))?
        .map_err(|e| End::Refused { code: None, error: e.to_string() })?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    match timeout_at(deadline, client.delta_aggregated_resources(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(End::Refused { code: Some(status.code()), error: describe(&status) }),
        Err(_) => Err(mute(&settings.bounds)),
    }
}

// === impl Conversation ===

impl<S: Sink> Conversation<'_, S> {
    async fn run(mut self, mut inbound: Streaming<DeltaDiscoveryResponse>, deadline: Instant) -> End {
        tracing::info!(target: "xds", control_plane = %self.xds.0.settings.target, "connected");
        let end = match self.converse(&mut inbound, deadline).await {
            Ok(()) => End::Complete { answered: self.delta.is_answered() },
            Err(end) => end,
        };
        self.delta.ended(&end);
        end
    }

    /// Reads and answers responses until the server ends the stream, with or without an error.
    async fn converse(
        &mut self,
        inbound: &mut Streaming<DeltaDiscoveryResponse>,
        deadline: Instant,
    ) -> Result<(), End> {
        loop {
            // A server that has answered once may be silent for ever: HTTP/2 PINGs detect a dead server.
            let deadline = (!self.delta.is_answered()).then_some(deadline);
            tokio::select! {
                response = next(inbound, deadline, &self.xds.0.settings.bounds) => match response? {
                    Some(response) => self.respond(response).await?,
                    None => return Ok(()),
                },
                () = due(self.delta.next_retry()) => self.retry().await?,
                () = self.xds.0.held.demanded() => {
                    for request in self.delta.demanded(Instant::now().into_std()) {
                        self.send(request).await?;
                    }
                }
            }
        }
    }

    async fn respond(&mut self, response: DeltaDiscoveryResponse) -> Result<(), End> {
        let payloads = response.resources.iter().filter_map(|r| r.resource.as_ref());
        let bytes = payloads.map(|any| any.value.len()).sum();
        self.xds.0.metrics.message(&response.type_url, bytes);
        let answer = match self.delta.received(response) {
            Step::Apply(apply, pending) => self.apply(apply, pending, bytes).await?,
            Step::Answer(answer) => {
                tracing::warn!(target: "xds", type_url = %answer.type_url, "ignored a response of a type not asked for");
                answer
            }
        };
        self.send(answer).await
    }

    async fn apply(
        &mut self,
        apply: Apply,
        pending: Pending,
        bytes: usize,
    ) -> Result<DeltaDiscoveryRequest, End> {
        let (kind, updates, removals) = (apply.kind, apply.resources.len(), apply.removed.len());
        let began = Instant::now();
        let rejected = self.put(apply).await?;
        self.xds.0.metrics.applied(kind.type_url(), began.elapsed());
        let answer = self.delta.applied(pending, &rejected, Instant::now().into_std());
        tracing::debug!(target: "xds", %kind, updates, removals, bytes, rejected = rejected.len(), "applied");
        self.refused(kind, updates, rejected);
        let on_demand = self.xds.0.settings.on_demand;
        let synced = self.xds.0.held.is_synced(on_demand);
        self.xds.update(|status| status.synced |= synced);
        Ok(answer)
    }

    /// Applies the resources again whose time of refusal is over.
    async fn retry(&mut self) -> Result<(), End> {
        let now = Instant::now().into_std();
        while let Some((apply, retry)) = self.delta.retry(now) {
            let (kind, updates) = (apply.kind, apply.resources.len());
            let rejected = self.put(apply).await?;
            self.delta.retried(retry, &rejected);
            let applied = updates.saturating_sub(rejected.len());
            tracing::info!(target: "xds", %kind, applied, "tried again what was refused for a time");
            self.refused(kind, updates, rejected);
        }
        Ok(())
    }

    /// Applies resources to the sink. Returns the rejected resources.
    async fn put(&self, Apply { kind, resources, removed }: Apply) -> Result<Vec<Rejected>, End> {
        let (bound, updates) = (self.xds.0.settings.bounds.apply, resources.len());
        let applied = timeout(bound, self.sink.apply(kind.type_url(), resources, removed)).await;
        applied
            .map_err(|_| End::SinkDown(format!("applying {updates} resources took longer than {bound:?}")))?
            .map_err(|e| End::SinkDown(e.to_string()))
    }

    /// Logs and counts the rejected resources, and keeps the resources that may be tried again.
    fn refused(&mut self, kind: ResourceType, updates: usize, rejected: Vec<Rejected>) {
        if !rejected.is_empty() {
            self.xds.0.metrics.rejected(kind.type_url(), rejected.len());
            log_rejected(kind, updates, &rejected);
            self.delta.put_aside(Instant::now().into_std(), kind, rejected);
        }
    }

    async fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), End> {
        let bound = self.xds.0.settings.bounds.send;
        match timeout(bound, self.requests.send(request)).await {
            // The call is over: the reading side learns the reason.
            Ok(_) => Ok(()),
            Err(_) => Err(End::Stalled(format!("the control plane has read no request for {bound:?}"))),
        }
    }
}

// === impl Connected ===

impl<'a> Connected<'a> {
    fn new(xds: &'a Xds) -> Self {
        xds.update(|status| status.connected = true);
        Self(xds)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.update(|status| status.connected = false);
    }
}

/// Waits until `at`, or for ever if `at` is `None`.
async fn due(at: Option<std::time::Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The next response; `None` at the end of the stream.
async fn next(
    inbound: &mut Streaming<DeltaDiscoveryResponse>,
    deadline: Option<Instant>,
    bounds: &Bounds,
) -> Result<Option<DeltaDiscoveryResponse>, End> {
    let message = inbound.message();
    let message = match deadline {
        Some(at) => timeout_at(at, message).await.map_err(|_| mute(bounds))?,
        None => message.await,
    };
    message.map_err(|status| End::Status { code: status.code(), message: describe_message(&status) })
}

fn mute(Bounds { first_answer, .. }: &Bounds) -> End {
    End::Stalled(format!("the control plane has not answered within {first_answer:?}"))
}

fn log_rejected(kind: ResourceType, updates: usize, rejected: &[Rejected]) {
    let count = rejected.len();
    let reasons = delta::nack_text(rejected);
    tracing::warn!(target: "xds", %kind, count, updates, %reasons, "refused resources; the rest is applied");
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), describe_message(status))
}

/// The text of the status, followed by the connection's error if there is one.
fn describe_message(status: &Status) -> String {
    match grpc::cause(status) {
        Some(cause) => format!("{}: {cause}", status.message()),
        None => status.message().to_owned(),
    }
}
