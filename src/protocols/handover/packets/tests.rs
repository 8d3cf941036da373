//! Messages of all lengths come out of their packets as they were, and bad packets are named.

use proptest::prelude::*;

use super::*;

fn joined(packets: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut assembly = Assembly::default();
    let (last, before) = packets.split_last()?;
    for packet in before {
        assert_eq!(assembly.push(packet), Ok(None));
    }
    assembly.push(last).unwrap()
}

#[test]
fn a_message_comes_out_as_it_was() {
    let room = MAX_PACKET - 1;
    for (len, count) in [(0, 1), (1, 1), (room, 1), (room + 1, 2), (3 * room, 3), (MAX_MESSAGE, 129)] {
        let message: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let packets = split(&message);
        assert_eq!(packets.len(), count, "{len} bytes");
        assert!(packets.iter().all(|packet| packet.len() <= MAX_PACKET));
        assert_eq!(joined(&packets), Some(message));
    }
    assert_eq!(split(&vec![0; MAX_MESSAGE + 1]), Vec::<Vec<u8>>::new());
}

#[test]
fn messages_follow_each_other() {
    let mut assembly = Assembly::default();
    for text in [&b"one"[..], b"", b"three"] {
        for packet in split(text) {
            assert_eq!(assembly.push(&packet).unwrap().as_deref(), Some(text));
        }
    }
}

#[test]
fn bad_packets_are_named() {
    assert_eq!(Assembly::default().push(&[]), Err(BadPacket::Empty));
    assert_eq!(Assembly::default().push(&[MORE]), Err(BadPacket::Empty));
    assert_eq!(Assembly::default().push(&[7, 1]), Err(BadPacket::Mark(7)));
    let mut assembly = Assembly::default();
    let packet = [&[MORE][..], &[0; MAX_PACKET - 1]].concat();
    let pushed = (0..200).map(|_| assembly.push(&packet)).find(Result::is_err);
    assert_eq!(pushed, Some(Err(BadPacket::TooLong)));
}

proptest! {
    #[test]
    fn any_packets_are_a_message_or_an_error(packets in proptest::collection::vec(proptest::collection::vec(0..3u8, 0..5), 0..20)) {
        let mut assembly = Assembly::default();
        for packet in &packets {
            let _ = assembly.push(packet);
        }
    }
}
