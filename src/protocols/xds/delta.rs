//! One delta stream: the requests to send and the handling of responses (docs/spec/controlplane.md 2.3, 2.4).
//!
//! Each step returns a value that the next step consumes, so a response is answered exactly once and only after it was
//! applied. A stream may be dropped at any point: the state is then right for the next stream's announcement.

use std::{collections::HashMap, time::Instant};

use prost::Message;
use tonic::Code;

use super::{
    Rejected, ResourceType, XdsState,
    backoff::End,
    demand::Request,
    held::{Push, is_on_demand},
    quarantined::Quarantined,
};
use crate::protocols::pb::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status};

/// The maximum length of a refusal's text, in bytes.
/// Limit: text of a refusal to the control plane: 16 KiB; past it: the rest is counted.
pub(crate) const NACK_BYTES_MAX: usize = 16 << 10;

/// A smaller announcement cannot be the cause of a server's error about size.
/// Limit: announcement of held resources that the server may have found too large: from 1 MiB; past it: all resources
/// are asked for anew when the server ends the stream over it.
const TOO_BIG_BYTES_MIN: usize = 1 << 20;

/// A stream that is open or about to be opened.
#[derive(Debug)]
pub(crate) struct DeltaStream {
    state: XdsState,
    on_demand: bool,
    answered: bool,
    announced_bytes: usize,
    /// Whether the first response holds all addresses, because none were announced.
    whole_addresses: bool,
    quarantined: Quarantined,
}

/// The next step after a response.
#[derive(Debug)]
#[must_use]
pub(crate) enum Step {
    /// Send this request; there are no resources to apply.
    Answer(DeltaDiscoveryRequest),
    /// Apply these resources, then call [`DeltaStream::applied`].
    Apply(Apply, Pending),
}

/// Resources to apply.
#[derive(Debug)]
pub(crate) struct Apply {
    /// The type of the resources.
    pub kind: ResourceType,
    /// The resources in the order of the response, without versions.
    pub resources: Vec<Resource>,
    /// The names to remove after the resources are applied.
    pub removed: Vec<String>,
}

/// A response that is being applied.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pending {
    push: Push,
    nonce: String,
}

/// Quarantined resources that are being retried.
#[derive(Debug)]
#[must_use]
pub(crate) struct Retry(Push);

// === impl DeltaStream ===

impl DeltaStream {
    /// Makes a new stream at `now`, and the requests that open the stream, in order.
    pub(crate) fn open(
        state: XdsState,
        node: &Node,
        on_demand: bool,
        now: Instant,
    ) -> (Self, Vec<DeltaDiscoveryRequest>) {
        let quarantined = Quarantined::default();
        let mut stream = Self {
            state,
            on_demand,
            answered: false,
            announced_bytes: 0,
            whole_addresses: false,
            quarantined,
        };
        let requests = ResourceType::ALL.into_iter().map(|kind| stream.hello(kind, node, now)).collect();
        (stream, requests)
    }

    fn hello(&mut self, kind: ResourceType, node: &Node, now: Instant) -> DeltaDiscoveryRequest {
        let on_demand = is_on_demand(kind, self.on_demand);
        // A request without names and star subscribes to everything. A star in both lists subscribes to nothing.
        let star = if on_demand { vec!["*".to_owned()] } else { Vec::new() };
        let mut request = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: star.clone(),
            resource_names_unsubscribe: star,
            initial_resource_versions: self.state.versions(kind),
            ..DeltaDiscoveryRequest::default()
        };
        if on_demand {
            // What the announcement names is requested by it.
            for name in self.state.open_demands(now) {
                request.initial_resource_versions.entry(name).or_default();
            }
        }
        // The rule holds for addresses only: removing a policy because a response lacks it could widen access.
        if kind == ResourceType::Address && !on_demand {
            self.announced_bytes = request.encoded_len();
            if self.state.is_too_big(kind, self.announced_bytes) {
                request.initial_resource_versions = HashMap::new();
                self.whole_addresses = true;
            }
        }
        request
    }

    /// Handles `response` and returns the next step.
    pub(crate) fn received(&mut self, response: DeltaDiscoveryResponse) -> Step {
        self.answered = true;
        let DeltaDiscoveryResponse { type_url, nonce, mut resources, removed_resources: mut removed, .. } =
            response;
        let Some(kind) = ResourceType::of(&type_url) else {
            return Step::Answer(answer(type_url, nonce, &[]));
        };
        if kind == ResourceType::Address && self.whole_addresses {
            removed.extend(self.state.others(kind, &resources));
            self.whole_addresses = false;
        }
        for name in resources.iter().map(|resource| &resource.name).chain(&removed) {
            self.quarantined.forget(kind, name);
        }
        let push = self.state.begin(kind, &mut resources, &removed);
        Step::Apply(Apply { kind, resources, removed }, Pending { push, nonce })
    }

    /// Notes that all of `pending` except `rejected` was applied at `now`, and returns the answer to send.
    pub(crate) fn applied(
        &mut self,
        pending: Pending,
        rejected: &[Rejected],
        now: Instant,
    ) -> DeltaDiscoveryRequest {
        let Pending { push, nonce } = pending;
        let type_url = push.kind().type_url().to_owned();
        self.state.finish(push, rejected, now);
        answer(type_url, nonce, rejected)
    }

    /// Quarantines those of `rejected` that may be retried. `now` is the present time.
    pub(crate) fn put_aside(&mut self, now: Instant, kind: ResourceType, rejected: Vec<Rejected>) {
        for later in rejected.into_iter().filter_map(|rejected| rejected.later) {
            // Without room in the quarantine, the resource is retried when the control plane sends it again.
            self.quarantined.keep(kind, later.resource, now + later.after);
        }
    }

    /// The moment at which [`Self::retry`] is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.quarantined.next_due()
    }

    /// Takes quarantined resources that are due at `now`. The caller applies the resources and calls [`Self::retried`],
    /// and repeats both until the result is `None`.
    pub(crate) fn retry(&mut self, now: Instant) -> Option<(Apply, Retry)> {
        let (kind, mut resources) = self.quarantined.take_due(now)?;
        let push = self.state.begin(kind, &mut resources, &[]);
        Some((Apply { kind, resources, removed: Vec::new() }, Retry(push)))
    }

    /// Notes that all retried resources except `rejected` were applied. The control plane gets no message, because its
    /// response was already answered.
    pub(crate) fn retried(&mut self, Retry(push): Retry, rejected: &[Rejected]) {
        self.state.settle(push, rejected);
    }

    /// The requests for the names demanded since the last call, in order.
    pub(crate) fn demanded(&mut self, now: Instant) -> impl Iterator<Item = DeltaDiscoveryRequest> + use<> {
        let Request { unsubscribe, subscribe } =
            if self.on_demand { self.state.take_demands(now) } else { Request::default() };
        let request = |unsubscribe, subscribe| DeltaDiscoveryRequest {
            type_url: ResourceType::Address.type_url().to_owned(),
            resource_names_unsubscribe: unsubscribe,
            resource_names_subscribe: subscribe,
            ..DeltaDiscoveryRequest::default()
        };
        let first = (!unsubscribe.is_empty()).then(|| request(unsubscribe, Vec::new()));
        let second = (!subscribe.is_empty()).then(|| request(Vec::new(), subscribe));
        first.into_iter().chain(second)
    }

    /// Whether the stream has received a response.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Notes how the stream ended. An announcement that was too large for the server is not repeated. The next stream
    /// then requests all addresses without an announcement, and removes the addresses that the response lacks.
    pub(crate) fn ended(self, end: &End) {
        let code = match end {
            End::Refused { code, .. } => *code,
            End::Status { code, .. } => Some(*code),
            _ => None,
        };
        if code == Some(Code::ResourceExhausted)
            && !self.answered
            && !self.whole_addresses
            && self.announced_bytes >= TOO_BIG_BYTES_MIN
        {
            self.state.was_too_big(ResourceType::Address, self.announced_bytes);
        }
    }
}

fn answer(type_url: String, nonce: String, rejected: &[Rejected]) -> DeltaDiscoveryRequest {
    let error_detail =
        (!rejected.is_empty()).then(|| Status { message: nack_text(rejected), ..Status::default() });
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

/// `<name>: <reason>; ...`, within [`NACK_BYTES_MAX`]. Rejections that do not fit are counted.
pub(crate) fn nack_text(rejected: &[Rejected]) -> String {
    // The longest possible count.
    /// No limit: the length of a fixed text.
    const ROOM_FOR_COUNT: usize = "; and 18446744073709551615 more".len();
    /// No limit: what another limit leaves.
    const FIRST_BYTES_MAX: usize = NACK_BYTES_MAX - ROOM_FOR_COUNT;
    let mut text = String::new();
    for (done, Rejected { name, reason, .. }) in rejected.iter().enumerate() {
        let separator = if done == 0 { "" } else { "; " };
        let length = text.len() + separator.len() + name.len() + ": ".len() + reason.len();
        if length <= FIRST_BYTES_MAX {
            text.extend([separator, name, ": ", reason]);
            continue;
        }
        let mut left = rejected.len().saturating_sub(done);
        if done == 0 {
            let whole = format!("{name}: {reason}");
            let mut cut = FIRST_BYTES_MAX;
            while !whole.is_char_boundary(cut) {
                cut -= 1;
            }
            text.push_str(whole.get(..cut).unwrap_or_default());
            left -= 1;
        }
        if left > 0 {
            text.push_str(&format!("; and {left} more"));
        }
        break;
    }
    text
}
