use proptest::prelude::*;

use super::*;

#[test]
fn durations_have_units_or_are_seconds() {
    for (text, millis) in [
        ("24h", Some(86_400_000)),
        ("90s", Some(90_000)),
        ("500ms", Some(500)),
        ("1h30m", Some(5_400_000)),
        ("1.5s", Some(1500)),
        ("0.25h", Some(900_000)),
        ("7", Some(7000)),
        ("0", Some(0)),
        ("1d", Some(86_400_000)),
        ("1000us", Some(1)),
        ("1000µs", Some(1)),
        ("", None),
        ("s", None),
        ("ms", None),
        ("1x", None),
        ("-1s", None),
        ("+1s", None),
        ("1 s", None),
        ("1s2", None),
        ("1..5s", None),
        (".5s", None),
        ("1.s", None),
        ("99999999999999h", None),
    ] {
        assert_eq!(duration(text).ok(), millis.map(Duration::from_millis), "{text:?}");
    }
}

#[test]
fn processor_quantities_round_up() {
    for (text, want) in [
        ("2", Some(Some(2))),
        ("1.5", Some(Some(2))),
        ("500m", Some(Some(1))),
        ("2000m", Some(Some(2))),
        ("2001m", Some(Some(3))),
        ("0", Some(None)),
        ("", None),
        ("m", None),
        ("-1", None),
        ("1k", None),
        ("two", None),
    ] {
        assert_eq!(processors(text).ok(), want, "{text:?}");
    }
}

#[test]
fn shares_round_up_and_are_exact() {
    for (percent, cpus, want) in [
        ("100", 8, Some(8)),
        ("25", 8, Some(2)),
        ("25", 9, Some(3)),
        ("7", 100, Some(7)),
        ("0.1", 4, Some(1)),
        ("0", 8, None),
        ("100.1", 8, None),
        ("x", 8, None),
        ("", 8, None),
    ] {
        assert_eq!(share(percent, cpus).ok(), want, "{percent}% of {cpus}");
    }
}

proptest! {
    #[test]
    fn durations_read_back(secs in 0_u64..400_000_000, nanos in 0_u32..1_000_000_000) {
        let value = Duration::new(secs, nanos);
        prop_assert_eq!(duration(&duration_text(value)), Ok(value));
    }

    #[test]
    fn no_text_makes_reading_panic(text in ".*", digits in "[0-9.hmsu%µ]{0,40}") {
        for text in [text, digits] {
            let _ = (duration(&text), processors(&text), share(&text, usize::MAX), boolean(&text));
            let _ = number(&text, &(0..=u16::MAX));
        }
    }
}
