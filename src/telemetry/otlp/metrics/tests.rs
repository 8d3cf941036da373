use super::*;

#[test]
fn an_export_that_lasts_skips_those_that_come_due_meanwhile() {
    for (took, want) in [(0, 0), (99, 0), (100, 1), (250, 2)] {
        assert_eq!(skipped(Duration::from_millis(took), Duration::from_millis(100)), want, "{took}");
    }
}
