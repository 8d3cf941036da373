//! One protobuf message a packet, no length prefix (docs/spec/protos.md 5).

use prost::Message;

use super::PodInfo;
use crate::protocols::pb::workload::zds as pb;

/// Both sides read into buffers of this many bytes; every packet of ours stays below.
/// Limit: a packet of the hand-over: 1024 bytes; past it: the connection is closed.
pub const PACKET_BYTES: usize = 1024;

/// The longest text of an answer: a packet less two tags of one byte and two lengths of two.
/// Limit: text of a refusal to istio-cni: 1017 bytes; past it: the text is cut.
const TEXT_BYTES: usize = PACKET_BYTES - 1 - 6;

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

/// One answer as a packet below [`PACKET_BYTES`]: a longer text is cut at a character, and an empty one is given words,
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
    text.get(..text.floor_char_boundary(TEXT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> PodInfo {
        PodInfo { name: "web-1".into(), namespace: "shop".into(), service_account: "web".into() }
    }

    #[test]
    fn packets_have_the_numbers_of_the_contract() {
        assert_eq!(encode_hello(), [0x08, 0x01]);
        assert_eq!(encode_answer(&Answer::Done), [0x0a, 0x00]);
        assert_eq!(encode_answer(&Answer::Refused("no".into())), [0x0a, 4, 0x0a, 2, b'n', b'o']);
        assert_eq!(encode_request(&Request::Keep { uid: "a".into() }), [0x2a, 3, 0x0a, 1, b'a']);
        assert_eq!(encode_request(&Request::Del { uid: "a".into() }), [0x12, 3, 0x12, 1, b'a']);
        assert_eq!(encode_request(&Request::SnapshotSent), [0x1a, 0]);
        let add = [0x0a, 14, 0x0a, 1, b'u', 0x12, 9, 0x0a, 1, b'n', 0x12, 1, b's', 0x1a, 1, b'a'];
        let info = PodInfo { name: "n".into(), namespace: "s".into(), service_account: "a".into() };
        assert_eq!(decode_request(&add), Ok(Request::Add { uid: "u".into(), info: Some(info) }));
    }

    #[test]
    fn requests_come_back_as_they_were() {
        for request in [
            Request::Add { uid: "u1".into(), info: Some(info()) },
            Request::Add { uid: "u1".into(), info: None },
            Request::Keep { uid: "u1".into() },
            Request::Del { uid: "u1".into() },
            Request::SnapshotSent,
        ] {
            assert_eq!(decode_request(&encode_request(&request)), Ok(request));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(decode_request(&[]), Err(CodecError::PeerNoPayload));
        assert_eq!(decode_request(&[0x22, 0]), Err(CodecError::PeerNoPayload), "an unknown kind");
        assert!(matches!(decode_request(&[0x0a, 9, 1]), Err(CodecError::PeerMalformed(_))));
        assert!(matches!(decode_request(&[0x0a, 3, 0x0a, 1, 0xff]), Err(CodecError::PeerMalformed(_))));
        assert_eq!(decode_hello(&[]), Err(CodecError::PeerVersion(0)));
        assert_eq!(decode_hello(&[0x08, 0x02]), Err(CodecError::PeerVersion(2)));
        assert_eq!(decode_hello(&[0x08, 0x01]), Ok(()));
    }

    #[test]
    fn a_refusal_never_reads_as_success_and_fills_no_packet() {
        for text in ["", "x", &"x".repeat(TEXT_BYTES), &"x".repeat(5000), &"\u{1F980}".repeat(5000)] {
            let packet = encode_answer(&Answer::Refused(text.to_owned()));
            assert!(packet.len() < PACKET_BYTES, "{} bytes", packet.len());
            assert!(matches!(decode_answer(&packet), Ok(Answer::Refused(_))));
        }
        assert_eq!(
            encode_answer(&Answer::Refused("x".repeat(5000))).len(),
            PACKET_BYTES - 1,
            "no byte is wasted"
        );
    }

    proptest! {
        #[test]
        fn any_refusal_is_cut_to_a_prefix_below_the_limit(text in ".{1,1200}") {
            let packet = encode_answer(&Answer::Refused(text.clone()));
            prop_assert!(packet.len() < PACKET_BYTES);
            let Ok(Answer::Refused(got)) = decode_answer(&packet) else { panic!("no refusal") };
            prop_assert!(text.starts_with(&got) && !got.is_empty());
            prop_assert!(got == text || text.len() > TEXT_BYTES);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_request(&bytes);
            let _ = decode_answer(&bytes);
            let _ = decode_hello(&bytes);
        }
    }
}
