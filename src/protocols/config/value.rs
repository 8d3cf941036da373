//! The forms values take (docs/spec/controlplane.md 4.1).

use std::{
    fmt::{Display, Write},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

/// Nanoseconds of each unit, the longest first.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The most threads that the data plane can have.
/// Limit: shards: 1024; past it: a setting above it is refused, and a computed number is cut to it.
pub(super) const MAX_SHARDS: usize = 1024;

/// A billionth, the resolution of [`decimal`].
const NANO: u128 = 1_000_000_000;

/// Exactly `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("not true or false".into()),
    }
}

/// Plain decimal digits, for a number of `range`.
pub(super) fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    range: &RangeInclusive<T>,
) -> Result<T, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a plain decimal number".into());
    }
    match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("not from {} to {}", range.start(), range.end())),
    }
}

/// A duration of `range`.
pub(super) fn duration_of(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = duration(text)?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("not from {} to {}", duration_text(*range.start()), duration_text(*range.end())))
    }
}

/// Numbers with units, such as `1h30m`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "not a duration such as 1h30m, 90s or 500ms".to_owned();
    let whole = if text.bytes().all(|b| b.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let mut rest = whole.as_str();
    let mut sum: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (amount, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = if unit == "µs" { "us" } else { unit };
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        sum += decimal(amount).ok_or_else(bad)? * nanos / NANO;
        rest = after;
    }
    if whole == "s" {
        return Err(bad());
    }
    let (seconds, nanos) = (u64::try_from(sum / NANO).ok(), u32::try_from(sum % NANO).ok());
    seconds.zip(nanos).map(|(s, n)| Duration::new(s, n)).ok_or_else(bad)
}

/// `duration` in the form [`duration`] reads.
pub(super) fn duration_text(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in UNITS.iter().skip(1).filter(|_| duration != Duration::ZERO) {
        let amount = rest / nanos;
        rest %= nanos;
        if amount > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "{amount}{unit}");
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// A number such as `1` or `0.25`, in billionths.
pub(super) fn decimal(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |s: &str, most: usize| (1..=most).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 12) || !digits(fraction, 9) {
        return None;
    }
    format!("{whole}{fraction:0<9}").parse().ok()
}

/// A Kubernetes processor quantity such as `2`, `1.5` or `500m`, rounded up; 0 stands for no quantity at all.
pub(super) fn processors(text: &str) -> Result<Option<usize>, String> {
    let bad = || "not a processor quantity such as 2, 1.5 or 500m".to_owned();
    let (amount, per) = text.strip_suffix('m').map_or((text, 1), |milli| (milli, 1000));
    let nanos = decimal(amount).ok_or_else(bad)?.div_ceil(per);
    let count = usize::try_from(nanos.div_ceil(NANO)).map_err(|_| bad())?;
    Ok((count > 0).then_some(count))
}

/// `P%` of `cpus`, rounded up, at least 1.
pub(super) fn share(percent: &str, cpus: usize) -> Result<usize, String> {
    match decimal(percent) {
        Some(p) if p > 0 && p <= 100 * NANO => {
            let count = (p * cpus as u128).div_ceil(100 * NANO);
            usize::try_from(count.max(1)).map_err(|_| "too many processors".into())
        }
        _ => Err("not more than 0% and at most 100%".into()),
    }
}

#[cfg(test)]
mod tests;
