use super::*;

fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(16 + rest.len()).unwrap().to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(rest);
    message
}

const ANSWERED: u16 = 0x0a0f;
const TABLE_ADDED: u16 = 0x0a00;
/// `nfgenmsg`, an attribute of three bytes, and the generation.
const NUMBER: [u8; 20] = [0, 0, 0, 0, 7, 0, 3, 0, b'n', b'f', 0, 0, 8, 0, 1, 0, 0, 0, 1, 7];

#[test]
fn an_answer_is_a_number_or_an_error_and_never_a_guess() {
    let number = message(ANSWERED, &NUMBER);
    assert_eq!(generation(&number).unwrap(), Some(263));
    let refused = generation(&message(2, &(-libc::EPERM).to_ne_bytes())).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    for short in 0..number.len() {
        assert!(generation(&number[..short]).is_err(), "cut at {short}");
        assert!(generation(&message(ANSWERED, &NUMBER[..short.min(NUMBER.len() - 1)])).is_err());
    }
}

#[test]
fn a_notification_is_no_answer_even_if_it_is_cut_off() {
    let mut long = message(TABLE_ADDED, &[0; 400]);
    long.truncate(NETLINK_ANSWER_BYTES);
    assert_eq!(generation(&long).unwrap(), None);
}

#[test]
fn malformed_answers_are_refused() {
    // The wrong lengths are those of the message, of an attribute, of the generation, and of an attribute shorter
    // than its header.
    for (at, byte) in [(0, 255), (20, 255), (28, 7), (28, 0), (20, 0), (20, 3)] {
        let mut answer = message(ANSWERED, &NUMBER);
        answer[at] = byte;
        assert_eq!(generation(&answer).unwrap_err().kind(), io::ErrorKind::InvalidData, "{at}: {byte}");
    }
    for (kind, rest) in [(ANSWERED, &NUMBER[..4]), (2, &[]), (2, &i32::MIN.to_ne_bytes())] {
        assert_eq!(generation(&message(kind, rest)).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

/// A pair that stands for a netlink socket: a message from the other end is an event.
fn pair() -> (RuleEvents, Socket) {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::DGRAM.nonblocking(), None).unwrap();
    (RuleEvents(ours), theirs)
}

#[tokio::test]
async fn word_is_had_until_it_is_drained_and_ends_with_its_socket() {
    let queue = RuleEventQueue::new().unwrap();
    let ((first, tell_first), (second, tell_second)) = (pair(), pair());
    queue.add(&first, 1).unwrap();
    queue.add(&second, 2).unwrap();
    tell_second.send(b"changed").unwrap();
    assert_eq!(queue.ready().await.unwrap(), [2]);
    assert_eq!(queue.ready().await.unwrap(), [2]);
    second.drain();
    tell_first.send(b"changed").unwrap();
    tell_first.send(b"changed again").unwrap();
    assert_eq!(queue.ready().await.unwrap(), [1]);
    first.drain();
    tell_first.send(b"changed").unwrap();
    drop(first);
    tell_second.send(b"changed").unwrap();
    assert_eq!(queue.ready().await.unwrap(), [2]);
}

#[test]
fn a_kernel_that_does_not_answer_is_no_answer() {
    let (events, theirs) = pair();
    assert_eq!(events.is_touched().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(theirs);
    assert!(events.is_touched().is_err());
}
