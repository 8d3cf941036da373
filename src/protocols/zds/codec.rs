//! The codec of ZDS: each packet is one protobuf message without a length prefix (docs/spec/protos.md 5).

use prost::Message;

use super::PodInfo;
use crate::protocols::pb::workload::zds as pb;

/// The size of the read buffers of both sides, in bytes. Every packet of this proxy is smaller.
/// Limit: a packet of the hand-over: 1024 bytes; past it: the connection is closed.
pub const ZDS_PACKET_BYTES: usize = 1024;

/// The longest text of an answer: a packet minus two tags of one byte and two lengths of two bytes.
/// Limit: text of a refusal to istio-cni: 1017 bytes; past it: the text is cut.
const ZDS_TEXT_BYTES: usize = ZDS_PACKET_BYTES - 1 - 6;

/// A request of istio-cni.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Serve this pod. The packet's one descriptor is the pod's network namespace.
    Add {
        /// The Kubernetes uid.
        uid: String,
        /// The pod's names. Only a broken agent leaves them out.
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

/// The proxy's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request was carried out.
    Done,
    /// The request was refused for this reason.
    Refused(String),
}

/// Why a packet is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The packet is not protobuf, or not of the expected type.
    #[error("the packet is no valid message: {0}")]
    PeerMalformed(#[from] prost::DecodeError),
    /// The message holds no known payload.
    #[error("the message holds no payload this proxy knows")]
    PeerNoPayload,
    /// The greeting is of another protocol version.
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
/// The packet is malformed or of another version.
pub fn decode_hello(packet: &[u8]) -> Result<(), CodecError> {
    let hello = pb::ZdsHello::decode(packet)?;
    if hello.version == i32::from(pb::Version::V1) {
        Ok(())
    } else {
        Err(CodecError::PeerVersion(hello.version))
    }
}

/// Encodes one request as a packet. The caller sends the descriptor of an `Add` with the packet.
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
/// The packet is malformed, or of a kind that this proxy does not know.
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

/// Encodes one answer as a packet below [`ZDS_PACKET_BYTES`]. A longer text is cut at a character boundary. A refusal
/// without text gets a default text, because an answer without text means success.
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
/// The packet is malformed or no answer.
pub fn decode_answer(packet: &[u8]) -> Result<Answer, CodecError> {
    match pb::WorkloadResponse::decode(packet)?.payload.ok_or(CodecError::PeerNoPayload)? {
        pb::workload_response::Payload::Ack(ack) if ack.error.is_empty() => Ok(Answer::Done),
        pb::workload_response::Payload::Ack(ack) => Ok(Answer::Refused(ack.error)),
    }
}

/// Cuts `text` to the part that fits an answer.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ZDS_TEXT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
