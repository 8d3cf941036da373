//! Messages of all lengths come out of their packets as they were, and bad packets are named.

use proptest::prelude::*;

use super::*;

fn joined(packets: &[Zeroizing<Vec<u8>>]) -> Option<Vec<u8>> {
    let mut assembly = Assembly::default();
    let (last, before) = packets.split_last()?;
    for packet in before {
        assert_eq!(assembly.push(packet), Ok(None));
    }
    assembly.push(last).unwrap().map(|message| message.to_vec())
}

#[test]
fn a_message_comes_out_as_it_was() {
    let room = MAX_PACKET - 1;
    for (len, count) in [(0, 1), (1, 1), (room, 1), (room + 1, 2), (3 * room, 3), (MAX_MESSAGE, 1025)] {
        let message: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let packets: Vec<_> = split(&message, 2).collect();
        assert_eq!(packets.len(), count, "{len} bytes");
        assert!(packets.iter().all(|packet| packet.len() <= MAX_PACKET));
        assert_eq!(joined(&packets), Some(message));
    }
    assert_eq!(split(&vec![0; MAX_MESSAGE + 1], 0).count(), 0);
}

#[test]
fn a_message_has_enough_packets_for_its_descriptors() {
    for (fds, count) in [(0, 1), (MAX_PACKET_FDS, 1), (MAX_PACKET_FDS + 1, 2), (MAX_MESSAGE_FDS, 17)] {
        let message = vec![3; 20 * fds + 1];
        let packets: Vec<_> = split(&message, fds).collect();
        assert_eq!(packets.len(), count, "{fds} descriptors");
        assert_eq!(joined(&packets), Some(message));
    }
}

#[test]
fn messages_follow_each_other() {
    let mut assembly = Assembly::default();
    for text in [&b"one"[..], b"", b"three"] {
        for packet in split(text, 0) {
            assert_eq!(assembly.push(&packet).unwrap().as_deref().map(|text| &text[..]), Some(text));
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
    let pushed = (0..2000).map(|_| assembly.push(&packet)).find(Result::is_err);
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
