use super::*;

/// Every open connection has one; the allocator rounds up to 320 bytes, and from there to 384.
#[test]
fn a_report_stays_small() {
    assert!(size_of::<ConnReport>() <= 320, "a report has {} bytes", size_of::<ConnReport>());
}
