//! The part of the mesh's proxy configuration that we read (docs/spec/controlplane.md 4.3).

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use serde_json::{Map, Value};

use super::{
    inputs::MESH_FILE,
    reader::{Invalid, Origin, Reader},
    upstream::Address,
    value::{self, MAX_SHARDS},
    var::Var,
};

pub(super) const PROXY_CONFIG: Var = Var::new(
    "PROXY_CONFIG",
    "YAML or JSON",
    "",
    "Goes over `defaultConfig` of the file `./etc/istio/config/mesh`. Read are `discoveryAddress`, `proxyAdminPort` \
     (15000), `statsPort` (15020), `concurrency` and `proxyMetadata`.",
);
const METADATA: Var = Var::text(
    "ISTIO_META_*",
    "",
    "Metadata for the control plane; goes over `proxyMetadata` of `PROXY_CONFIG`.",
);

/// Keys of the mesh file and of `PROXY_CONFIG`, merged.
#[derive(Debug, Default)]
pub(super) struct ProxyConfig {
    /// Where the control plane is.
    pub(super) discovery_address: Option<Address>,
    /// The admin port.
    pub(super) admin_port: Option<u16>,
    /// The metrics port.
    pub(super) stats_port: Option<u16>,
    /// Threads of the data plane; 0 means one for each processor.
    pub(super) concurrency: Option<usize>,
    /// Metadata, `ISTIO_META_` stripped; the environment's is laid over it.
    pub(super) metadata: BTreeMap<String, String>,
}

impl ProxyConfig {
    /// Reads the mesh file, then `PROXY_CONFIG` over it, then `ISTIO_META_…` over its metadata.
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let mut config = Self::default();
        if let Some(text) = r.inputs.mesh_file
            && let Some(mut mesh) = document(r, Origin::MeshFile, text)
        {
            match mesh.remove("defaultConfig") {
                Some(Value::Object(keys)) => config.merge(r, Origin::MeshFile, keys),
                None | Some(Value::Null) => {}
                Some(_) => note(r, Origin::MeshFile, "defaultConfig", "", "not a map".into()),
            }
        }
        if let Some(text) = r.raw(&PROXY_CONFIG)
            && let Some(keys) = document(r, Origin::Environment, text)
        {
            config.merge(r, Origin::Environment, keys);
        }
        config.metadata.extend(r.prefixed(&METADATA).map(|(k, v)| (k.to_owned(), v.to_owned())));
        config
    }

    /// A setting that is metadata by its name: of the environment, else of `proxyMetadata`.
    pub(super) fn metadata(&self, r: &Reader<'_>, var: &'static Var) -> Option<&str> {
        // The environment's is in the metadata already.
        let _ = r.raw(var);
        let key = var.name.strip_prefix(METADATA.prefix())?;
        self.metadata.get(key).map(String::as_str)
    }

    fn merge(&mut self, r: &mut Reader<'_>, origin: Origin, keys: Map<String, Value>) {
        for (key, value) in keys {
            let read = match (key.as_str(), &value) {
                (_, Value::Null) => Ok(()),
                ("discoveryAddress", Value::String(text)) if text.is_empty() => Ok(()),
                ("discoveryAddress", Value::String(text)) => {
                    Address::parse(text).map(|address| self.discovery_address = Some(address))
                }
                ("discoveryAddress", _) => Err("not text".into()),
                ("proxyAdminPort", value) => {
                    integer(value, 0..=u16::MAX).map(|port| self.admin_port = Some(port))
                }
                ("statsPort", value) => integer(value, 0..=u16::MAX).map(|port| self.stats_port = Some(port)),
                ("concurrency", value) => {
                    integer(value, 0..=MAX_SHARDS).map(|count| self.concurrency = Some(count))
                }
                ("proxyMetadata", Value::Object(pairs)) => {
                    self.metadata.extend(pairs.iter().filter_map(metadata));
                    Ok(())
                }
                ("proxyMetadata", _) => Err("not a map".into()),
                _ => Ok(()),
            };
            if let Err(reason) = read {
                let shown =
                    if key == "proxyMetadata" { String::new() } else { scalar(&value).unwrap_or_default() };
                note(r, origin, &key, &shown, reason);
            }
        }
    }
}

/// The top-level map of a YAML or JSON text; an empty text is an empty map.
fn document(r: &mut Reader<'_>, origin: Origin, text: &str) -> Option<Map<String, Value>> {
    let reason = match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(keys)) => return Some(keys),
        _ if text.trim().is_empty() => return None,
        Ok(Value::Null) => return None,
        Ok(_) => "not a map".to_owned(),
        Err(error) => {
            let at = error.location().map(|at| format!("at line {} column {}", at.line(), at.column()));
            // The error's own text can quote the document, which may hold secrets.
            format!("not YAML {}", at.unwrap_or_default()).trim_end().to_owned()
        }
    };
    note(r, origin, "", "", reason);
    None
}

fn note(r: &mut Reader<'_>, origin: Origin, key: &str, value: &str, reason: String) {
    let (name, value) = match (origin, key) {
        (Origin::MeshFile, "") => (MESH_FILE.into(), "…".into()),
        (Origin::MeshFile, key) => (key.to_owned(), value.to_owned()),
        (Origin::Environment, "") => (PROXY_CONFIG.name.into(), "…".into()),
        (Origin::Environment, key) => (PROXY_CONFIG.name.into(), format!("{key}: {value}")),
    };
    r.note(Invalid { origin, name, value, reason });
}

fn metadata((key, value): (&String, &Value)) -> Option<(String, String)> {
    let key = key.strip_prefix(METADATA.prefix()).unwrap_or(key);
    Some((key.to_owned(), scalar(value)?))
}

/// A number of `range`, or text that is one.
fn integer<T: FromStr + PartialOrd + Display>(value: &Value, range: RangeInclusive<T>) -> Result<T, String> {
    value::number(&scalar(value).unwrap_or_default(), &range)
}

/// Text, or what a number or truth value looks like as text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
