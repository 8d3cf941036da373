//! What an explanation consists of.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::protocols::{addr::HboneAddr, identity::Identity};

/// Whether a connection gets through, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// No proxy refuses the connection.
    Allowed,
    /// A proxy refuses the connection.
    Denied,
    /// Something decides that is not known here.
    Unknown,
}

/// A sentence, and the sentences that support it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sentence {
    /// The sentence.
    pub(crate) says: String,
    /// What supports the sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) because: Vec<Sentence>,
}

/// What one proxy decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decided {
    /// The decision.
    pub(crate) verdict: Verdict,
    /// The decision as a sentence, with its reasons.
    #[serde(flatten)]
    pub(crate) sentence: Sentence,
}

/// A connection or stream as it arrives at the destination's proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The client's identity. A plaintext connection has none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub(crate) identity: Option<Identity>,
    /// Where the client's proxy, or the client, connects to.
    pub(crate) to: SocketAddr,
    /// What the CONNECT asks for. A plaintext connection asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub(crate) authority: Option<HboneAddr>,
}

/// The next hop that the client's proxy chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextHop {
    /// The protocol in the notation of dumps: `TCP`, `HBONE` or `DOUBLEHBONE`.
    pub(crate) protocol: String,
    /// The address or name that is dialled.
    pub(crate) to: String,
    /// The workload that is dialled, if the mesh knows it.
    pub(crate) workload: Option<String>,
    /// The service that the client asks for.
    pub(crate) service: Option<String>,
    /// The identities that the other end of the tunnel may have.
    pub(crate) identities: Vec<String>,
}

/// Why a connection gets through or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// Whether the connection gets through.
    pub(crate) verdict: Verdict,
    /// The client: `namespace/name (address)`, or an address.
    pub(crate) source: String,
    /// The address and port that the client asks for.
    pub(crate) destination: String,
    /// What the name of the destination stands for.
    pub(crate) named: Vec<Sentence>,
    /// What the client's proxy decides. `None` if the client has no proxy.
    pub(crate) outbound: Option<Decided>,
    /// The next hop, if there is one.
    pub(crate) next_hop: Option<NextHop>,
    /// What arrives at the destination's proxy, if its own proxy comes next.
    pub(crate) arrival: Option<Arrival>,
    /// What is decided behind the client's proxy.
    pub(crate) inbound: Option<Decided>,
}

// === impl Explanation ===

impl Explanation {
    /// Makes the verdict of what both sides decide: the first refusal counts, then what is not known.
    pub(crate) fn conclude(&mut self) {
        let sides = [&self.outbound, &self.inbound];
        let verdicts: Vec<Verdict> = sides.into_iter().flatten().map(|side| side.verdict).collect();
        self.verdict = match () {
            () if verdicts.contains(&Verdict::Denied) => Verdict::Denied,
            () if verdicts.is_empty() || verdicts.contains(&Verdict::Unknown) => Verdict::Unknown,
            () => Verdict::Allowed,
        };
    }
}

// === impl Sentence ===

impl Sentence {
    pub(super) fn new(says: impl Into<String>) -> Self {
        Self { says: says.into(), because: Vec::new() }
    }

    pub(super) fn because(mut self, because: Vec<Self>) -> Self {
        self.because = because;
        self
    }
}

// === impl Decided ===

impl Decided {
    pub(super) fn new(verdict: Verdict, says: impl Into<String>, because: Vec<Sentence>) -> Self {
        Self { verdict, sentence: Sentence::new(says).because(because) }
    }
}

// === impl Verdict ===

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
        })
    }
}

/// Optional values as their texts.
mod as_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer, T: Display>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromStr>(from: D) -> Result<Option<T>, D::Error>
    where
        T::Err: Display,
    {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
