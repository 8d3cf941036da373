//! Settings as text: what may be shown, and how.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use http::{HeaderName, HeaderValue};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::value;

/// `config` as YAML.
pub(super) fn yaml(config: &impl Serialize) -> String {
    let mut text = String::new();
    // Maps of text and numbers always have a JSON form.
    lines(&mut text, 0, &serde_json::to_value(config).unwrap_or_default());
    text
}

fn lines(text: &mut String, depth: usize, value: &Value) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        // Writing to a string does not fail.
        let _ = write!(text, "{:indent$}{name}:", "", indent = depth * 2);
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push('\n');
                lines(text, depth + 1, value);
            }
            Value::String(word) if is_plain(word) => {
                let _ = writeln!(text, " {word}");
            }
            // JSON is YAML.
            other => {
                let _ = writeln!(text, " {other}");
            }
        }
    }
}

/// YAML takes `word` as text without quotes.
fn is_plain(word: &str) -> bool {
    let begins = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ',' | '=');
    begins
        && word.chars().all(rest)
        && !matches!(word, "true" | "false" | "null" | "yes" | "no" | "on" | "off")
}

/// A duration as it is read.
pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value::duration_text(*value))
}

/// A duration as it is read, or nothing.
pub(super) fn maybe_duration<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.map(value::duration_text).serialize(serializer)
}

/// The names of headers, whose values may be secrets.
pub(super) fn header_names<S: Serializer>(
    headers: &[(HeaderName, HeaderValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
}

/// The keys of a map, whose values may be secrets.
pub(super) fn keys<S: Serializer>(map: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map.keys())
}

/// A text too long to show.
pub(super) fn left_out<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("<{} bytes>", text.len()))
}
