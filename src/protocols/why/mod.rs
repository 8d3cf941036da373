//! Why a connection is let through or refused, found without sending a packet.
//!
//! The decisions are those of [`route`](super::route) and [`rbac`](super::rbac), made by the functions that decide about
//! connections. Recorders hear what the decisions depend on.

mod asked;
mod explanation;
mod inbound;
mod outbound;
mod policies;
mod proxy;
#[cfg(test)]
mod tests;

use self::{
    asked::{Asked, AskedError, Client},
    outbound::{Onward, Sent},
};
pub(crate) use self::{
    explanation::{Arrival, Decided, Explanation, Sentence, Verdict},
    inbound::explain_arrival,
    proxy::{Here, Proxy, WhySettings},
};

/// Explains what becomes of a connection from `source` to `destination`. `source` is `namespace/name` of a pod, a
/// workload's uid or an address. `destination` is an address, a name, or `namespace/name` of a service or pod; a port may
/// follow.
///
/// # Errors
/// Source or destination do not exist, or the port is missing.
pub(crate) fn explain(
    proxy: Proxy<'_>,
    source: &str,
    destination: &str,
    rng: &mut dyn rand::RngCore,
) -> Result<Explanation, AskedError> {
    let client = Client::find(proxy, source)?;
    let asked = Asked::find(proxy, &client, destination)?;
    let client = client.towards(asked.dst.ip());
    let mut explained = Explanation {
        verdict: Verdict::Unknown,
        source: client.to_string(),
        destination: asked.dst.to_string(),
        named: asked.named,
        outbound: None,
        next_hop: None,
        arrival: None,
        inbound: None,
    };
    let onward = match &client.workload {
        Some(workload) => {
            let Sent { decided, hop, onward } =
                outbound::explain_sent(proxy, (workload, client.ip), asked.dst, rng);
            (explained.outbound, explained.next_hop) = (Some(decided), hop);
            onward
        }
        None => {
            let arrival =
                Arrival { client: client.ip, identity: None, to: asked.dst.addr(), authority: None };
            Onward::Arrives(arrival, None)
        }
    };
    match onward {
        Onward::Ends => {}
        Onward::Elsewhere(decided) => explained.inbound = Some(decided),
        Onward::Arrives(arrival, at) => {
            explained.inbound = Some(match at {
                Some(workload) => inbound::explain_at(proxy, &workload, &arrival),
                None => explain_arrival(proxy, &arrival),
            });
            explained.arrival = Some(arrival);
        }
    }
    explained.conclude();
    Ok(explained)
}
