//! istio-cni and the sockets in pods (docs/spec/dataplane.md 1.2 and 6).

use serde::Serialize;

use super::{node::ProxyMode, reader::Reader, var::Var};

const INPOD_UDS: Var =
    Var::new("INPOD_UDS", "path", "/var/run/ztunnel/ztunnel.sock", "The Unix socket of istio-cni.");
const INPOD_PORT_REUSE: Var = Var::flag(
    "INPOD_PORT_REUSE",
    "true",
    "Listeners in pods share their ports with those of another proxy, for rollouts.",
);
const PACKET_MARK: Var = Var::number(
    "PACKET_MARK",
    "1337",
    "The mark of sockets in pods, which istio-cni's redirection rules look for. In the dedicated mode there is none unless \
     it is set.",
);

const HANDOVER_UDS: Var = Var::new(
    "WARREN_HANDOVER_UDS",
    "path",
    "`warren.sock` beside `INPOD_UDS`",
    "The Unix socket at which the next proxy of the node takes live connections over. Set and empty, connections are not \
     handed over.",
);

/// The longest path of a Unix socket, its final zero left out (unix(7)).
/// Limit: path of a Unix socket: 107 bytes; past it: the setting is refused.
const UDS_PATH_BYTES: usize = 107;

/// The name of the socket beside istio-cni's.
const HANDOVER_NAME: &str = "warren.sock";

/// istio-cni and the sockets in pods.
#[derive(Clone, Debug, Serialize)]
pub struct InpodConfig {
    /// istio-cni's socket.
    pub uds: String,
    /// The socket at which the next process takes connections over; none if connections are not handed over.
    pub handover_uds: Option<String>,
    /// Listeners in pods share their ports with the listeners of another proxy, which takes over.
    pub port_reuse: bool,
    /// The mark of every socket in a pod's network namespace.
    pub packet_mark: Option<u32>,
}

impl InpodConfig {
    pub(super) fn read(r: &mut Reader<'_>, mode: &ProxyMode) -> Self {
        let (uds, handover_uds) = sockets(r, mode);
        if let (Some(uds), ProxyMode::Dedicated(_)) = (r.raw(&INPOD_UDS), mode) {
            r.warn(INPOD_UDS.name, uds, "no effect: the dedicated mode has no istio-cni".into());
        }
        let marked = r.raw(&PACKET_MARK).is_some() || matches!(mode, ProxyMode::Shared);
        Self {
            uds,
            handover_uds,
            port_reuse: r.boolean(&INPOD_PORT_REUSE),
            packet_mark: marked.then(|| r.number(&PACKET_MARK, 0..=u32::MAX)),
        }
    }
}

/// istio-cni's socket, and that at which the next process takes connections over.
pub(super) fn sockets(r: &mut Reader<'_>, mode: &ProxyMode) -> (String, Option<String>) {
    let uds = r.parse_or_default(&INPOD_UDS, path).unwrap_or_default();
    let handover_uds = match (r.raw(&HANDOVER_UDS), mode) {
        (_, ProxyMode::Dedicated(_)) | (Some(""), _) => None,
        (Some(_), _) => r.parse(&HANDOVER_UDS, path),
        (None, _) => beside(&uds, HANDOVER_NAME),
    };
    (uds, handover_uds)
}

/// The path of the socket `name` in the folder of `other`, unless the path is too long.
pub(super) fn beside(other: &str, name: &str) -> Option<String> {
    let folder = other.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
    path(&(folder.unwrap_or_default() + name)).ok()
}

pub(super) fn path(path: &str) -> Result<String, String> {
    if path.len() <= UDS_PATH_BYTES && !path.contains('\0') {
        Ok(path.to_owned())
    } else {
        Err(format!("no path of a Unix socket, which has at most {UDS_PATH_BYTES} bytes"))
    }
}
