use super::*;

#[test]
fn every_end_has_its_flag_and_text() {
    use ResponseFlag::*;
    let cause = || Cause::from("why");
    let table: [(Outcome, ResponseFlag, &str); 28] = [
        (Cut::Drain.into(), Ok, "connection closed due to connection drain"),
        (Cut::PolicyChange.into(), Deny, "connection closed due to policy change"),
        (Cut::Revoked.into(), CertRevoked, "connection closed: peer certificate revoked by CRL"),
        (Cut::Operator.into(), Ok, "connection closed by an operator"),
        (
            Denial::Explicit("ns/name".into()).into(),
            Deny,
            "connection closed due to policy rejection: explicitly denied by: ns/name",
        ),
        (
            Denial::NotAllowed.into(),
            Deny,
            "connection closed due to policy rejection: allow policies exist, but none allowed",
        ),
        (
            Denial::WorkloadNotFound.into(),
            Deny,
            "connection closed due to policy rejection: workload not found",
        ),
        (
            Denial::WorkloadMismatch.into(),
            Deny,
            "connection closed due to policy rejection: workload mismatch",
        ),
        (Unroutable::UnknownWaypoint(cause()).into(), Connect, "unknown waypoint: why"),
        (Unroutable::NoHealthyUpstream(cause()).into(), Connect, "no healthy upstream: why"),
        (Unroutable::NoAddresses(cause()).into(), Connect, "no ip addresses were resolved for workload: why"),
        (
            Unroutable::UnknownLocalWorkload(Cause::from("sa.ns (pod)")).into(),
            Connect,
            "failed to fetch information about local workload: sa.ns (pod)",
        ),
        (Unroutable::Recursive.into(), Connect, "attempted recursive call to ourselves"),
        (Unroutable::NotConnect(Cause::from("GET")).into(), Connect, "expected method CONNECT, got GET"),
        (Unroutable::Waited(cause()).into(), Connect, "timed out waiting for why"),
        (Unroutable::Undiscovered(cause()).into(), Connect, "address not known: why"),
        (Failure::Dial(cause()).into(), Connect, "connection failed: why"),
        (
            Failure::HboneTimeout(cause()).into(),
            NetworkPolicy,
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: why",
        ),
        (Failure::Io(cause()).into(), Connect, "io error: why"),
        (Failure::Tls(cause()).into(), TlsFailure, "tls error: why"),
        (Failure::TunnelTls(cause()).into(), Connect, "tls error: why"),
        (Failure::Identity(cause()).into(), IdentityError, "identity error: why"),
        (Failure::H2Handshake(cause()).into(), H2HandshakeFailure, "http2 handshake failed: why"),
        (Failure::H2(cause()).into(), H2HandshakeFailure, "h2 failed: why"),
        (Failure::Status(503).into(), Connect, "http status: 503"),
        (Failure::Send(cause()).into(), Connect, "send: why"),
        (Failure::Receive(cause()).into(), Connect, "receive: why"),
        (Failure::Receive("x".to_owned().into()).into(), Connect, "receive: x"),
    ];
    for (outcome, flag, text) in table {
        assert_eq!((outcome.flag(), outcome.to_string().as_str()), (flag, text));
        assert_eq!(outcome.severity(), Severity::Error, "{text}");
    }
    assert_eq!((Outcome::Complete.flag(), Outcome::Complete.severity()), (ResponseFlag::Ok, Severity::Info));
}

#[test]
fn what_ends_a_relay_has_its_flag_and_text() {
    use std::io::{Error, ErrorKind};
    let broken = || Error::from(ErrorKind::BrokenPipe);
    let table = [
        (RelayError::Receive(broken()), ResponseFlag::Connect, "receive: broken pipe"),
        (RelayError::Send(broken()), ResponseFlag::Connect, "send: broken pipe"),
        (
            RelayError::PeerReset(h2::Reason::CANCEL),
            ResponseFlag::H2HandshakeFailure,
            "h2 failed: stream reset by peer: stream no longer needed",
        ),
        (
            RelayError::Undelivered,
            ResponseFlag::Connect,
            "send: one side is gone, and the other side takes no bytes",
        ),
        (
            RelayError::Tunnel(h2::Reason::PROTOCOL_ERROR.into()),
            ResponseFlag::H2HandshakeFailure,
            "h2 failed: protocol error: unspecific protocol error detected",
        ),
    ];
    for (fault, flag, text) in table {
        let outcome = Outcome::from(Failure::from(fault));
        assert_eq!((outcome.flag(), outcome.to_string().as_str()), (flag, text));
    }
}

#[test]
fn an_error_is_kept_as_the_source_and_is_the_text() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let failure = Failure::Dial(Cause::of(refused));
    assert_eq!(failure.to_string(), "connection failed: connection refused");
    let cause = failure.source().and_then(Error::source).unwrap();
    let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(failure, Failure::Dial("connection refused".into()));
}

#[test]
fn flags_know_their_place() {
    for (at, flag) in ResponseFlag::ALL.into_iter().enumerate() {
        assert_eq!(flag.index(), at, "{}", flag.as_str());
    }
}
