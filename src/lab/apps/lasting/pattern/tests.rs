//! What is lost, changed or cut off is found.

use super::*;

async fn bytes_of(seed: u64, count: u64) -> Vec<u8> {
    let (mut sent, mut written) = (Sent::new(seed), Vec::new());
    while sent.bytes() < count {
        sent.write_some(&mut written).await.unwrap();
    }
    written
}

#[tokio::test]
async fn what_was_written_is_what_is_expected() {
    let bytes = bytes_of(7, 100_000).await;
    assert_eq!(check_all(&mut &*bytes, 7).await.unwrap(), bytes.len() as u64);
    let counted = [&*bytes, &(bytes.len() as u64).to_le_bytes()].concat();
    assert_eq!(check_counted(&mut &*counted, 7).await.unwrap(), bytes.len() as u64);
}

#[tokio::test]
async fn what_is_lost_changed_or_cut_off_is_found() {
    let bytes = bytes_of(7, 100_000).await;
    check_all(&mut &*bytes, 8).await.unwrap_err();
    let mut changed = bytes.clone();
    changed[50_000] ^= 1;
    check_all(&mut &*changed, 7).await.unwrap_err();
    let mut lost = bytes.clone();
    lost.remove(50_000);
    check_all(&mut &*lost, 7).await.unwrap_err();
    // A count after fewer bytes, and an end without a count.
    let cut = [&bytes[..50_000], &(bytes.len() as u64).to_le_bytes()].concat();
    check_counted(&mut &*cut, 7).await.unwrap_err();
    check_counted(&mut &bytes[..16_384], 7).await.unwrap_err();
    check_counted(&mut &bytes[..5], 7).await.unwrap_err();
}
