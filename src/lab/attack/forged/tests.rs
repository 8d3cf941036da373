//! A forged request has checksums that a receiver takes.

use super::*;

#[test]
fn the_sum_over_a_packet_with_its_checksum_is_zero() {
    let packet = request("198.18.0.1:40000".parse().unwrap(), "10.77.2.1:15008".parse().unwrap());
    let (header, segment) = packet.split_at(20);
    assert_eq!((header.len(), segment.len(), checksum(header)), (20, 20, 0));
    let pseudo = [&header[12..20], &[0, TCP, 0, 20], segment].concat();
    assert_eq!(checksum(&pseudo), 0);
    assert_eq!(u16::from_be_bytes([segment[2], segment[3]]), 15008);
}
