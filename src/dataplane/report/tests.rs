use super::*;

/// Every open connection has a report. The allocator rounds the report's size up to 320 bytes, and then to 384.
#[test]
fn a_report_stays_small() {
    assert!(size_of::<ConnReport>() <= 320, "a report has {} bytes", size_of::<ConnReport>());
}
