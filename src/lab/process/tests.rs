use super::*;

#[test]
fn usage_is_read_past_a_name_with_brackets() {
    let status = "Name:\ta) b\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t7\n";
    let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
    let used = usage(status, stat);
    assert_eq!((used.cpu, used.threads), (Duration::from_secs(2), 7));
    assert_eq!((used.resident_bytes, used.peak_bytes), (1 << 20, 2 << 20));
}

#[test]
fn a_long_log_is_shown_from_a_character_near_its_end() {
    let text = "é".repeat(LOG_TAIL_BYTES);
    assert_eq!(LogTail::of(&format!("{text}\n")).0.chars().count(), LOG_TAIL_BYTES / 2);
    assert_eq!(LogTail::default().to_string(), "it logged nothing");
}
