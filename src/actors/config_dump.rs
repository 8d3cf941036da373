//! The sections of `/config_dump`, out of the parts of the process (docs/spec/controlplane.md 7.2).

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use super::{
    admin::{
        console::version,
        dump::{Content, Dump, DumpFilter, Gather},
    },
    control::{
        certs::{CertStatus, Certs},
        zds::ZdsStatus,
    },
    pods::{Pods, pod::Pod},
};
use crate::{
    dataplane::pod::conns::ConnInfo,
    protocols::{
        ca::chain::Certificate,
        config::Config,
        dump::{self, settings::settings},
        labels::Reporter,
        mesh::{Endpoints, Mesh, Service, Workload},
    },
};

/// The most names that an answer lists when a name is unknown.
/// Limit: names of workloads in the answer to an unknown one: 20; past it: the others are left out.
const NAMES_SHOWN: usize = 20;

/// The parts of the process that a dump shows. A clone is cheap.
#[derive(Clone)]
pub(crate) struct DumpSources {
    /// Workloads, services and policies.
    pub(crate) mesh: Mesh,
    /// The certificates.
    pub(crate) certs: Certs,
    /// The pods and their connections.
    pub(crate) pods: Pods,
    /// The pods that are not served yet. A proxy for one workload has none.
    pub(crate) zds: Option<watch::Receiver<ZdsStatus>>,
}

// === impl DumpSources ===

impl DumpSources {
    /// The dump of these parts and of the settings.
    pub(crate) fn dump(self, config: &Config) -> Dump {
        let of = |gather: fn(&Self, &DumpFilter) -> Content| -> Gather {
            let sources = self.clone();
            Arc::new(move |filter| gather(&sources, filter))
        };
        let fixed = |value: Value| -> Gather { Arc::new(move |_| Content::Value(value.clone())) };
        let mut sections = vec![
            ("certificates", of(Self::certificates)),
            ("config", fixed(settings(config))),
            ("policies", of(Self::policies)),
            ("services", of(Self::services)),
            ("stagedServices", of(Self::staged_services)),
            ("staticConfig", fixed(json!({"workloads": [], "services": [], "policies": []}))),
            ("version", fixed(version(&config.node.istio_version))),
            ("workloads", of(Self::workloads)),
        ];
        if self.zds.is_some() {
            sections.push(("workloadState", of(Self::workload_state)));
        }
        Dump::new(sections, Arc::new(move |filter| self.refuse(filter)))
    }

    /// Says which workloads of this node there are, if the filter names none of the mesh.
    fn refuse(&self, filter: &DumpFilter) -> Option<String> {
        let wanted = filter.workload.as_deref()?;
        let all = self.mesh.all_workloads();
        if all.iter().any(|workload| is(workload, wanted)) {
            return None;
        }
        let mut names: Vec<Arc<str>> = self.pods.all().iter().map(|pod| pod.id.name()).collect();
        names.sort_unstable();
        let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(|name| &**name).collect();
        Some(format!("no workload {wanted:?} among {}; pods of this node: {}", all.len(), shown.join(", ")))
    }

    /// The workloads that the filter lets through, by uid.
    fn chosen(&self, filter: &DumpFilter) -> Vec<Arc<Workload>> {
        let mut all = self.mesh.all_workloads();
        if let Some(wanted) = &filter.workload {
            all.retain(|workload| is(workload, wanted));
        }
        all.sort_unstable_by(|a, b| a.uid().cmp(b.uid()));
        all
    }

    fn workloads(&self, filter: &DumpFilter) -> Content {
        Content::List(Box::new(self.chosen(filter).into_iter().map(|workload| dump::workload(&workload))))
    }

    fn services(&self, filter: &DumpFilter) -> Content {
        let mut all = self.mesh.all_services();
        if filter.workload.is_some() {
            let chosen = self.chosen(filter);
            all.retain(|service| chosen.iter().any(|workload| workload.membership(service.key()).is_some()));
        }
        let order = |service: &Arc<Service>| (service.hostname().to_owned(), service.namespace().to_owned());
        all.sort_by_cached_key(order);
        let mesh = self.mesh.clone();
        Content::List(Box::new(all.into_iter().map(move |service| {
            let endpoints = mesh.endpoints(&service);
            dump::service(&service, endpoints.as_deref())
        })))
    }

    fn staged_services(&self, _: &DumpFilter) -> Content {
        let known = |endpoints: &Arc<Endpoints>| {
            let (namespace, hostname) = endpoints.service().parts();
            self.mesh.service(namespace, hostname).is_some()
        };
        let mut staged = self.mesh.all_endpoints();
        staged.retain(|endpoints| !known(endpoints));
        staged.sort_by(|a, b| a.service().cmp(b.service()));
        let entry = |endpoints: Arc<Endpoints>| (endpoints.service().to_string(), dump::staged(&endpoints));
        Content::Map(Box::new(staged.into_iter().map(entry)))
    }

    fn policies(&self, filter: &DumpFilter) -> Content {
        let mut all = self.mesh.policies().iter().cloned().collect::<Vec<_>>();
        if filter.workload.is_some() {
            let chosen = self.chosen(filter);
            all.retain(|policy| {
                chosen.iter().any(|workload| {
                    let named = || workload.policies().iter().any(|key| **key == *policy.key());
                    policy.covers(workload.namespace()) || named()
                })
            });
        }
        all.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        Content::List(Box::new(all.into_iter().map(|policy| dump::policy(&policy))))
    }

    fn certificates(&self, filter: &DumpFilter) -> Content {
        let mut all = self.certs.all();
        if filter.workload.is_some() {
            let chosen = self.chosen(filter);
            all.retain(|status| chosen.iter().any(|workload| *workload.identity() == status.identity));
        }
        all.sort_by_cached_key(|status| status.identity.to_string());
        Content::List(Box::new(all.into_iter().map(|status| certificate(&status, SystemTime::now()))))
    }

    fn workload_state(&self, filter: &DumpFilter) -> Content {
        let wanted = |name: &str| filter.workload.as_deref().is_none_or(|wanted| wanted == name);
        let mut states = BTreeMap::new();
        let pending = self.zds.as_ref().map(|zds| zds.borrow().session.pending.clone()).unwrap_or_default();
        for pending in pending {
            let name = pending.name.clone().unwrap_or_default();
            if wanted(&name) {
                let (namespace, name) = name.split_once('/').unwrap_or_default();
                let info = json!({"namespace": namespace, "name": name, "serviceAccount": ""});
                states.insert(pending.uid.to_string(), json!({"state": "Pending", "info": info}));
            }
        }
        let pods = self.pods.all();
        for pod in pods.iter().filter(|pod| !pod.id.is_own() && wanted(&pod.id.name())) {
            states.insert(pod.id.uid.to_string(), up(pod));
        }
        Content::Map(Box::new(states.into_iter()))
    }
}

/// Whether `workload` is `namespace/name`.
fn is(workload: &Workload, wanted: &str) -> bool {
    wanted.split_once('/').is_some_and(|(namespace, name)| {
        workload.name() == name && workload.namespace() == namespace //
    })
}

/// A pod that is served, with its live connections.
fn up(pod: &Pod) -> Value {
    let info = &pod.id.info;
    let (mut inbound, mut outbound) = (Vec::new(), Vec::new());
    pod.conns().live.for_each(|conn| {
        let info = conn.info();
        match info.reporter {
            Reporter::Destination => inbound.push(inbound_conn(info)),
            Reporter::Source => outbound.extend(outbound_conn(info)),
        }
    });
    json!({
        "state": "Up",
        "info": {"name": info.name, "namespace": info.namespace, "serviceAccount": info.service_account},
        "connections": {"inbound": inbound, "outbound": outbound},
    })
}

fn inbound_conn(info: &ConnInfo) -> Value {
    json!({
        "src": info.src.to_string(),
        "originalDst": info.host.as_deref(),
        "actualDst": info.dst.to_string(),
        "protocol": if info.identity.is_some() { "HBONE" } else { "TCP" },
    })
}

/// A connection whose next hop is chosen.
fn outbound_conn(info: &ConnInfo) -> Option<Value> {
    let hop = (*info.next_hop.lock())?;
    Some(json!({
        "src": info.src.to_string(),
        "originalDst": info.dst.to_string(),
        "actualDst": hop.addr.to_string(),
        "protocol": hop.protocol,
    }))
}

fn certificate(status: &CertStatus, now: SystemTime) -> Value {
    let state = match (&status.cert, &status.failure) {
        (Some(cert), _) if !cert.is_expired_at(now) => "Available".to_owned(),
        (_, Some(failure)) => format!("Unavailable: {failure}"),
        (Some(_), None) => "Unavailable: the certificate has expired".to_owned(),
        (None, None) => "Initializing".to_owned(),
    };
    let (chain, roots) = status.cert.as_ref().map_or_else(Default::default, |cert| {
        (cert.path().map(shown).collect::<Vec<_>>(), cert.roots().iter().map(shown).collect::<Vec<_>>())
    });
    json!({"identity": status.identity.to_string(), "state": state, "certChain": chain, "rootCerts": roots})
}

/// A certificate. Its PEM text is in base64 once more, as istioctl expects it.
fn shown(certificate: &Certificate) -> Value {
    let at = |time: SystemTime| {
        // Years past 9999 have no RFC 3339 form.
        let time = OffsetDateTime::from(time).replace_nanosecond(0).ok();
        time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
    };
    let mut fields = Map::new();
    fields.insert("pem".to_owned(), STANDARD.encode(certificate.pem.as_bytes()).into());
    fields.insert("serialNumber".to_owned(), (*certificate.serial).into());
    fields.insert("validFrom".to_owned(), at(certificate.not_before).into());
    fields.insert("expirationTime".to_owned(), at(certificate.not_after).into());
    fields.into()
}
