//! State of the mesh from YAML, instead of a control plane or besides one (docs/spec/controlplane.md 2.7).
//!
//! The keys are those of `/config_dump`. What is read becomes the resources that a control plane would send, so that the
//! same decoders check both.

mod raw;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use prost::Message;
use prost_types::Any;

use crate::protocols::{
    mesh::{Change, policy::Policy},
    pb::{ads::Resource, security as az, workload as wl},
    xds::ResourceType,
};

/// The resources of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalState {
    /// The workloads and services.
    pub(crate) addresses: Vec<Resource>,
    /// The policies.
    pub(crate) policies: Vec<Resource>,
}

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalStateError {
    /// The text is no YAML, lacks a key, or has an unknown key or a bad value. The text names the line and shows it.
    #[error("{0}")]
    Yaml(String),
    /// The values of a workload, service or policy do not fit together.
    #[error("line {line}: {what}: {reason}")]
    Invalid {
        /// The line, from 1.
        line: u64,
        /// The workload, service or policy.
        what: String,
        /// The fault.
        reason: String,
    },
}

// === impl LocalState ===

impl LocalState {
    /// Reads workloads, services and policies.
    ///
    /// # Errors
    /// The first fault of the text; see [`LocalStateError`].
    pub(crate) fn parse(text: &str) -> Result<Self, LocalStateError> {
        // A text that has only comments is an empty mesh.
        let source: Option<raw::Source> =
            serde_saphyr::from_str(text).map_err(|error| LocalStateError::Yaml(error.render()))?;
        let source = source.unwrap_or_default();
        let (mut state, mut seen) = (Self::default(), Seen::default());
        for raw in source.workloads {
            let line = raw.line();
            let workload = wl::Workload::from(raw);
            let what = format!("workload {}/{}", workload.namespace, workload.name);
            let fault = workload.name.is_empty().then(|| "has neither a name nor a uid".to_owned());
            if let Some(reason) = fault.filter(|_| workload.uid.is_empty()) {
                return Err(LocalStateError::Invalid { line, what, reason });
            }
            seen.first("workload", &workload.uid, line)?;
            state.address(wl::address::Type::Workload(workload), line, what)?;
        }
        for raw in source.services {
            let line = raw.line();
            let service = wl::Service::from(raw);
            let key = format!("{}/{}", service.namespace, service.hostname);
            seen.first("service", &key, line)?;
            state.address(wl::address::Type::Service(service), line, format!("service {key}"))?;
        }
        for raw in source.policies {
            let line = raw.line();
            let policy = az::Authorization::from(raw);
            let name = format!("{}/{}", policy.namespace, policy.name);
            seen.first("policy", &name, line)?;
            let value = policy.encode_to_vec();
            let (_, faults) = Policy::decode(&name, policy);
            if !faults.is_empty() {
                let (what, reason) = (format!("policy {name}"), faults.to_string());
                return Err(LocalStateError::Invalid { line, what, reason });
            }
            state.policies.push(resource(ResourceType::Authorization, name, value));
        }
        Ok(state)
    }

    fn address(&mut self, kind: wl::address::Type, line: u64, what: String) -> Result<(), LocalStateError> {
        let address = wl::Address { r#type: Some(kind) };
        let value = address.encode_to_vec();
        let change = Change::decode(address).map_err(|error| LocalStateError::Invalid {
            line,
            what,
            reason: error.to_string(),
        })?;
        self.addresses.push(resource(ResourceType::Address, change.name().to_owned(), value));
        Ok(())
    }
}

fn resource(kind: ResourceType, name: String, value: Vec<u8>) -> Resource {
    let any = Any { type_url: kind.type_url().to_owned(), value };
    Resource { name, resource: Some(any), ..Resource::default() }
}

/// The keys that the source has had so far, and their lines.
#[derive(Default)]
struct Seen(HashMap<(&'static str, String), u64>);

// === impl Seen ===

impl Seen {
    fn first(&mut self, kind: &'static str, key: &str, line: u64) -> Result<(), LocalStateError> {
        let Some(first) = self.0.insert((kind, key.to_owned()), line) else { return Ok(()) };
        let what = format!("{kind} {key}");
        Err(LocalStateError::Invalid { line, what, reason: format!("is in line {first} already") })
    }
}
