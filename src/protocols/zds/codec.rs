//! One protobuf message a packet, no length prefix (docs/spec/protos.md 5).

use prost::Message;

use super::PodInfo;
use crate::protocols::pb::workload::zds as pb;

/// Both sides read into buffers of this many bytes; every packet of ours stays below.
/// Limit: a packet of the hand-over: 1024 bytes; past it: the connection is closed.
pub const ZDS_PACKET_BYTES: usize = 1024;

/// The longest text of an answer: a packet less two tags of one byte and two lengths of two.
/// Limit: text of a refusal to istio-cni: 1017 bytes; past it: the text is cut.
const ZDS_TEXT_BYTES: usize = ZDS_PACKET_BYTES - 1 - 6;

/// What istio-cni asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Serve this pod; its network namespace comes as the packet's one descriptor.
    Add {
        /// The Kubernetes uid.
        uid: String,
        /// Absent only from a broken agent.
        info: Option<PodInfo>,
    },
    /// The pod exists, but the agent has no descriptor of it now: do not stop it at the end of the snapshot.
    Keep {
        /// The Kubernetes uid.
        uid: String,
    },
    /// Stop serving this pod.
    Del {
        /// The Kubernetes uid.
        uid: String,
    },
    /// Every pod the agent knows has been added or kept.
    SnapshotSent,
}

/// What the proxy answers, once for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Not done, and why.
    Refused(String),
}

/// Why a packet is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf, or not of this type.
    #[error("the packet is no valid message: {0}")]
    PeerMalformed(#[from] prost::DecodeError),
    /// A message of none of the kinds we know.
    #[error("the message holds no payload this proxy knows")]
    PeerNoPayload,
    /// A greeting of another protocol version.
    #[error("the peer speaks version {0} of the protocol, not 1")]
    PeerVersion(i32),
}

/// The proxy's first packet.
pub fn encode_hello() -> Vec<u8> {
    pb::ZdsHello { version: pb::Version::V1.into() }.encode_to_vec()
}

/// Reads the proxy's first packet.
///
/// # Errors
/// It is malformed or of another version.
pub fn decode_hello(packet: &[u8]) -> Result<(), CodecError> {
    let hello = pb::ZdsHello::decode(packet)?;
    if hello.version == i32::from(pb::Version::V1) {
        Ok(())
    } else {
        Err(CodecError::PeerVersion(hello.version))
    }
}

/// One request as a packet. An `Add` needs its descriptor beside it.
pub fn encode_request(request: &Request) -> Vec<u8> {
    use pb::workload_request::Payload;
    let payload = match request.clone() {
        Request::Add { uid, info } => Payload::Add(pb::AddWorkload {
            uid,
            workload_info: info.map(|info| pb::WorkloadInfo {
                name: info.name.as_ref().into(),
                namespace: info.namespace.as_ref().into(),
                service_account: info.service_account.as_ref().into(),
            }),
        }),
        Request::Keep { uid } => Payload::Keep(pb::KeepWorkload { uid }),
        Request::Del { uid } => Payload::Del(pb::DelWorkload { uid }),
        Request::SnapshotSent => Payload::SnapshotSent(pb::SnapshotSent {}),
    };
    pb::WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

/// Reads one request.
///
/// # Errors
/// It is malformed, or of a kind this proxy does not know.
pub fn decode_request(packet: &[u8]) -> Result<Request, CodecError> {
    use pb::workload_request::Payload;
    match pb::WorkloadRequest::decode(packet)?.payload.ok_or(CodecError::PeerNoPayload)? {
        Payload::Add(pb::AddWorkload { uid, workload_info }) => Ok(Request::Add {
            uid,
            info: workload_info.map(|info| PodInfo {
                name: info.name.into(),
                namespace: info.namespace.into(),
                service_account: info.service_account.into(),
            }),
        }),
        Payload::Keep(pb::KeepWorkload { uid }) => Ok(Request::Keep { uid }),
        Payload::Del(pb::DelWorkload { uid }) => Ok(Request::Del { uid }),
        Payload::SnapshotSent(pb::SnapshotSent {}) => Ok(Request::SnapshotSent),
    }
}

/// One answer as a packet below [`ZDS_PACKET_BYTES`]. A longer text is cut at a character. An empty one is given words,
/// because an answer without text means success.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    let error = match answer {
        Answer::Done => String::new(),
        Answer::Refused(text) if text.is_empty() => "refused without a reason".into(),
        Answer::Refused(text) => cut(text).into(),
    };
    let ack = pb::workload_response::Payload::Ack(pb::Ack { error });
    pb::WorkloadResponse { payload: Some(ack) }.encode_to_vec()
}

/// Reads one answer.
///
/// # Errors
/// It is malformed or no answer.
pub fn decode_answer(packet: &[u8]) -> Result<Answer, CodecError> {
    match pb::WorkloadResponse::decode(packet)?.payload.ok_or(CodecError::PeerNoPayload)? {
        pb::workload_response::Payload::Ack(ack) if ack.error.is_empty() => Ok(Answer::Done),
        pb::workload_response::Payload::Ack(ack) => Ok(Answer::Refused(ack.error)),
    }
}

/// As much of `text` as fits an answer.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ZDS_TEXT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
