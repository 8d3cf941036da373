use proptest::prelude::*;

use super::*;
use crate::lab::apps::capture::packet::tests::frame;

const PORTS: (u16, u16) = (1000, 15008);
const MARKER: &[u8] = b"secret";
/// Close to the end, so that sequence numbers wrap around.
const START: u32 = u32::MAX - 20;

fn record(kind: u8, content: usize) -> Vec<u8> {
    let mut record = vec![kind, 3, 3];
    record.extend((content as u16).to_be_bytes());
    record.extend(vec![0xee; content]);
    record
}

/// One flow whose payload arrives in the given parts, each `(offset, bytes)`.
fn flow(parts: &[(usize, &[u8])]) -> Flow {
    let mut flows = Flows::new(MARKER);
    flows.on_frame(&frame(PORTS, START.wrapping_sub(1), true, b""));
    for (offset, bytes) in parts {
        flows.on_frame(&frame(PORTS, START.wrapping_add(*offset as u32), false, bytes));
    }
    let mut captured = flows.finish(0);
    assert_eq!(captured.flows.len(), 1);
    captured.flows.remove(0)
}

proptest! {
    #[test]
    fn records_are_walked_in_any_order_of_any_cuts(
        lengths in prop::collection::vec(1_usize..300, 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..6),
    ) {
        let mut stream = record(22, 50);
        lengths.iter().for_each(|length| stream.extend(record(23, *length)));
        let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        edges.extend([0, stream.len()]);
        edges.sort_unstable();
        let mut parts: Vec<(usize, &[u8])> =
            edges.windows(2).map(|edge| (edge[0], &stream[edge[0]..edge[1]])).collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(parts.len()), b.index(parts.len()));
            parts.swap(a, b);
        }
        let again = parts.clone();
        parts.extend(again);
        let flow = flow(&parts);
        prop_assert!(flow.is_tls && flow.is_complete && !flow.has_marker);
        prop_assert_eq!((flow.bytes, flow.records), (stream.len() as u64, lengths.len() as u64 + 1));
    }
}

#[test]
fn plaintext_is_no_tls_and_its_marker_is_found_across_segments() {
    let seen = flow(&[(0, b"GET /se"), (7, b"cre"), (10, b"t HTTP/1.1")]);
    assert!(!seen.is_tls && seen.has_marker && seen.is_complete);
    assert!(!flow(&[(0, b"GET /secre HTTP")]).has_marker);
    assert!(!flow(&[(0, b"x")]).is_tls);
}

#[test]
fn a_gap_is_told_and_what_lies_behind_it_is_searched() {
    let seen = flow(&[(0, &record(22, 5)), (20, b"a secret")]);
    assert!(!seen.is_complete && seen.has_marker);
    assert_eq!((seen.bytes, seen.records), (10, 1));
}

#[test]
fn a_flow_whose_start_was_missed_proves_nothing() {
    let mut flows = Flows::new(MARKER);
    flows.on_frame(&frame(PORTS, 5, false, &record(22, 5)));
    let captured = flows.finish(3);
    assert!(!captured.flows[0].is_tls && !captured.is_complete());
    assert_eq!(captured.dropped, 3);
}

#[test]
fn after_tls_records_plaintext_breaks_the_flow() {
    let mut stream = record(22, 5);
    stream.extend(b"PING 1\r\n");
    assert!(!flow(&[(0, &stream)]).is_tls);
}
