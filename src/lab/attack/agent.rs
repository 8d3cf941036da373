//! Attacks of a CNI agent that is broken.

use std::{io, time::Duration};

use super::{
    arena::Arena,
    hands::{Attack, hands},
};
use crate::{lab::cni::CniError, protocols::zds::codec::ZDS_PACKET_BYTES};

/// The pause while no proxy is connected.
const REDIAL: Duration = Duration::from_millis(20);

/// Packets that are no requests: empty, of odd bytes, a request cut short, too large, and of an unknown pod.
fn packets() -> Vec<Vec<u8>> {
    let unknown = vec![0x12, 0x05, 0x0a, 0x03, b'n', b'/', b'a'];
    let nameless = vec![0x0a, 0x00];
    vec![
        Vec::from([0]),
        Vec::from([0xff; 64]),
        Vec::from([0x0a, 0x7f, 0x0a]),
        vec![0x0a; ZDS_PACKET_BYTES + 1],
        nameless,
        unknown,
    ]
}

/// Sends such packets one after the other, and goes on with the next connection where the proxy hangs up. Meanwhile the
/// proxy is not ready, and serves its pods.
pub(super) fn garbage(arena: &Arena) -> Result<Attack, String> {
    let agent = arena.agent.clone();
    hands(arena.node_namespace()?, 1, move |blows| {
        let agent = agent.clone();
        async move {
            for packet in packets() {
                match agent.send_bytes(packet).await {
                    Err(CniError::NoProxy) => tokio::time::sleep(REDIAL).await,
                    // Whatever the proxy answers, the packet was delivered.
                    _ => blows.dealt(1),
                }
            }
            Ok::<(), io::Error>(())
        }
    })
}
