use super::*;

#[test]
fn small_payloads_that_wait_are_kept_together_and_in_order() {
    let mut waiting = Waiting::default();
    let mut sent = Vec::new();
    for n in 0..100_000u32 {
        let size = if n % 10_000 == 0 { COPIED_PAYLOAD_BYTES + 1 } else { 1 };
        let payload = vec![n as u8; size];
        sent.extend_from_slice(&payload);
        waiting.push(payload.into());
    }
    assert!(waiting.pieces.len() <= 2 * 10 + sent.len() / PIECE_BYTES, "{} pieces", waiting.pieces.len());
    waiting.end = Some(End::Finished);
    let mut got = Vec::new();
    while let Some(Ok(piece)) = waiting.pop() {
        got.extend_from_slice(&piece);
    }
    assert!(got == sent, "bytes differ");
    assert!(waiting.is_empty() && waiting.end.is_none());
}
