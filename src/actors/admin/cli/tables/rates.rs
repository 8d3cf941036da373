//! What has changed between two looks at the same rows, by the second.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::actors::admin::cli::table::number;

/// Adds the field `xPerSecond` to the rows of the second look for each field `x` of `counters`. `key` is the field that
/// tells rows apart. A row that was not there at the first look has no rate yet: its rates are 0.
pub(super) fn add_rates(before: &[Value], now: &mut [Value], (key, counters): (&str, &[&str]), seconds: f64) {
    let earlier: HashMap<&str, &Value> =
        before.iter().filter_map(|row| Some((row.get(key)?.as_str()?, row))).collect();
    for row in now {
        let earlier = row.get(key).and_then(Value::as_str).and_then(|key| earlier.get(key));
        for counter in counters {
            let change = earlier.map_or(0.0, |earlier| number(row, counter) - number(earlier, counter));
            if let Some(fields) = row.as_object_mut() {
                fields.insert(format!("{counter}PerSecond"), json!(change.max(0.0) / seconds));
            }
        }
    }
}
