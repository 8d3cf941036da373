//! The proxies' log lines (docs/spec/controlplane.md 6).

use std::collections::BTreeMap;

use warren::lab::process::Process;

use crate::support::{Lab, eventually};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub level: String,
    pub scope: String,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut columns = text.split('\t');
        let (_, level, scope, message) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
        let fields = fields(columns.next()?);
        Some(Self { level: level.to_owned(), scope: scope.to_owned(), message: message.to_owned(), fields })
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// Whether the fields have these values; `""` is an absent one.
    pub(crate) fn has(&self, wanted: &[(&str, &str)]) -> bool {
        wanted.iter().all(|(name, value)| self.field(name) == *value)
    }
}

/// `k=v k="quoted v"`.
fn fields(mut text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some((name, rest)) = text.trim_start().split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let bytes = quoted.as_bytes();
                let end =
                    (0..bytes.len()).find(|&at| bytes[at] == b'"' && (at == 0 || bytes[at - 1] != b'\\'));
                quoted.split_at(end.unwrap_or(bytes.len()))
            }
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        fields.insert(name.to_owned(), value.to_owned());
        text = rest.strip_prefix('"').unwrap_or(rest);
    }
    fields
}

/// The whole log of a node's proxy.
pub(crate) fn log(lab: &Lab, node: &str) -> String {
    lab.proxies().find(|(name, _)| *name == node).map(|(_, process)| process.log_text()).unwrap()
}

/// Its access log.
pub(crate) fn access(lab: &Lab, node: &str) -> Vec<Line> {
    let text = log(lab, node);
    // A line that is being written is none yet.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(Line::parse).filter(|line| line.scope == "access").collect()
}

/// The first line of the access log of a process with these fields, once it is there.
pub(crate) fn line_of(process: &Process, wanted: &[(&str, &str)]) -> Line {
    eventually(&format!("line {wanted:?} in the access log of {}", process.name()), || {
        let text = process.log_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let access = whole.lines().filter_map(Line::parse).filter(|line| line.scope == "access");
        access.into_iter().find(|line| line.has(wanted))
    })
}

/// The first line of the access log with these fields, once it is there.
pub(crate) fn line(lab: &Lab, node: &str, wanted: &[(&str, &str)]) -> Line {
    eventually(&format!("line {wanted:?} in the access log of {node}:\n{}", log(lab, node)), || {
        access(lab, node).into_iter().find(|line| line.has(wanted))
    })
}
