//! istio-cni and the sockets in pods (docs/spec/dataplane.md 1.2 and 6).

use serde::Serialize;

use super::{node::ProxyMode, reader::Reader};

/// The mark istio-cni's redirection rules look for.
/// No limit: the mark that istio-cni's rules look for.
const PACKET_MARK: u32 = 1337;

/// The longest path of a Unix socket, its final zero left out (unix(7)).
/// Limit: path of istio-cni's socket: 107 bytes; past it: the setting is refused.
const UDS_PATH_BYTES: usize = 107;

/// istio-cni and the sockets in pods.
#[derive(Clone, Debug, Serialize)]
pub struct InpodConfig {
    /// istio-cni's socket.
    pub uds: String,
    /// Pod listeners can overlap with those of another proxy, which takes over.
    pub port_reuse: bool,
    /// The mark of every socket in a pod's network namespace.
    pub packet_mark: Option<u32>,
}

impl InpodConfig {
    pub(super) fn read(r: &mut Reader<'_>, mode: &ProxyMode) -> Self {
        let uds = r.parse("INPOD_UDS", |path| {
            if path.len() <= UDS_PATH_BYTES && !path.contains('\0') {
                Ok(path.to_owned())
            } else {
                Err(format!("no path of a Unix socket, which has at most {UDS_PATH_BYTES} bytes"))
            }
        });
        let marked = matches!(mode, ProxyMode::Shared) || r.raw("PACKET_MARK").is_some();
        Self {
            uds: uds.unwrap_or_else(|| "/var/run/ztunnel/ztunnel.sock".into()),
            port_reuse: r.boolean("INPOD_PORT_REUSE", true),
            packet_mark: marked.then(|| r.number("PACKET_MARK", PACKET_MARK, 0..=u32::MAX)),
        }
    }
}
