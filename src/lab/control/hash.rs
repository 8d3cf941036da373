//! The hash from which addresses, uids and versions of resources are derived.

/// 64-bit FNV-1a with a final mix, over the parts and their bounds. The hash must never change, because addresses are
/// derived from it.
pub(super) fn hash(parts: &[&str]) -> u64 {
    hash_bytes(parts.iter().map(|part| part.as_bytes()))
}

/// The same hash over parts that are bytes.
pub(super) fn hash_bytes<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}
