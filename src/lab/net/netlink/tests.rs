use super::*;

#[test]
fn a_message_has_its_length_sequence_and_padded_attributes() {
    let bytes =
        Message::new("x", 16, ACK, &[7; 4]).text(3, "br0").nest(18, |m| m.attr(1, b"veth!")).encode(9);
    let expected: Vec<u8> = [
        44u32.to_ne_bytes().as_slice(),
        &16u16.to_ne_bytes(),
        &5u16.to_ne_bytes(),
        &9u32.to_ne_bytes(),
        &[0; 4],
        &[7; 4],
        &8u16.to_ne_bytes(),
        &3u16.to_ne_bytes(),
        b"br0\0",
        &16u16.to_ne_bytes(),
        &(18u16 | NESTED).to_ne_bytes(),
        &9u16.to_ne_bytes(),
        &1u16.to_ne_bytes(),
        b"veth!\0\0\0",
    ]
    .concat();
    assert_eq!(bytes, expected);
}

#[test]
fn answers_are_read_until_the_datagram_ends_or_lies() {
    let answer = |sequence: u32, code: i32| {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend(ERROR.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes
    };
    let two = [answer(1, 0), answer(2, -17)].concat();
    assert_eq!(answers(&two), [(1, 0), (2, 17)]);
    assert_eq!(answers(two.get(..30).unwrap()), [(1, 0)]);
    assert_eq!(answers(&[0; 64]), []);
    assert_eq!(answers(&[]), []);
}
