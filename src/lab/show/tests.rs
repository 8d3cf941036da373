use super::*;

fn printed(colour: bool, progress: bool) -> (String, bool) {
    let mut out = Vec::new();
    let mut show = Show::to(&mut out, colour, progress);
    show.section("traffic");
    show.doing("asking");
    assert!(show.fact("by address", Ok(Evidence::new("200").detail("from server-1"))));
    assert!(!show.fact("by name", Err("nothing\nat all".to_owned())));
    let held = show.close();
    (String::from_utf8(out).unwrap(), held)
}

#[test]
fn a_file_gets_plain_lines_and_no_progress() {
    let (text, held) = printed(false, false);
    assert!(!held && !text.contains('\x1b') && !text.contains("asking"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["", "traffic", "  ✔ by address             200", lines[3]]);
    assert_eq!(lines[3].trim(), "from server-1");
    assert!(lines[4].starts_with("  ✘ by name ") && lines[4].ends_with(" nothing"), "{text}");
    assert_eq!(lines[5].trim(), "at all");
    assert!(lines[7].starts_with("1 of 2 did not hold, in "), "{text}");
}

#[test]
fn a_terminal_gets_colours_and_a_line_of_progress_that_goes_away() {
    let (text, _) = printed(true, true);
    assert!(text.contains("\x1b[32m✔\x1b[0m") && text.contains("\x1b[31m✘\x1b[0m"), "{text}");
    let (_, after) = text.split_once("… asking").unwrap();
    assert!(after.starts_with("\x1b[0m\r\x1b[K"), "{text}");
}

#[test]
fn nothing_shown_is_no_success() {
    assert!(!Show::to(Vec::new(), false, false).close());
}

#[test]
fn numbers_and_times_read_well() {
    assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    let times = [1_234, 45_000, 2_340_000].map(|micros| seconds(Duration::from_micros(micros)));
    assert_eq!(times, ["1.2 ms", "45 ms", "2.3 s"]);
}
