use super::*;

#[test]
fn headers_byte_by_byte() {
    let identity: Identity = "spiffe://td/ns/n/sa/s".parse().unwrap();
    let v4 = encode("1.2.3.4:5".parse().unwrap(), "6.7.8.9:258".parse().unwrap(), Some(&identity));
    let mut want = SIGNATURE.to_vec();
    want.extend([0x21, 0x11, 0, 12 + 3 + 21, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 1, 2, 0xD0, 0, 21]);
    want.extend(b"spiffe://td/ns/n/sa/s");
    assert_eq!(v4, want);
    let v6 = encode("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap(), None);
    assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 16 + 36));
    let mixed = encode("[::1]:1".parse().unwrap(), "1.2.3.4:2".parse().unwrap(), None);
    assert_eq!(mixed[12..], [0x21, 0x01, 0, 0]);
}
