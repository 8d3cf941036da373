//! Reads single variables and gathers what is wrong with them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use super::{inputs::Inputs, value};

/// How much of a bad value is shown.
const SHOWN_CHARS: usize = 200;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where it comes from.
    pub origin: Origin,
    /// The variable or key.
    pub name: String,
    /// What it is set to; `<redacted>` if it could be a secret.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The environment.
    Environment,
    /// The mesh file.
    MeshFile,
}

/// Reads variables; a bad one is noted and replaced by its default, so that reading goes on.
pub(super) struct Reader<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    invalid: Vec<Invalid>,
    warnings: Vec<Invalid>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(inputs: &'a Inputs<'a>) -> Self {
        Self { inputs, invalid: Vec::new(), warnings: Vec::new() }
    }

    /// The warnings.
    ///
    /// # Errors
    /// Everything noted as bad.
    pub(super) fn finish(self) -> Result<Vec<Invalid>, Vec<Invalid>> {
        if self.invalid.is_empty() { Ok(self.warnings) } else { Err(self.invalid) }
    }

    /// The variable as it is, the empty text included.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        let vars: &'a BTreeMap<String, String> = self.inputs.vars;
        vars.get(name).map(String::as_str)
    }

    /// The variable; empty is the same as unset.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// Every variable whose name starts with `prefix`, without it and by name.
    pub(super) fn prefixed(&self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let vars: &'a BTreeMap<String, String> = self.inputs.vars;
        vars.iter().filter_map(move |(name, value)| {
            let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
            Some((rest, value.as_str()))
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &str, default: bool) -> bool {
        self.flag(name).unwrap_or(default)
    }

    /// `true`, `false` or unset.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.parsed(name, self.raw(name), value::boolean)
    }

    /// A plain decimal number of `range`.
    pub(super) fn number<T>(&mut self, name: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.parsed(name, self.raw(name), |text| value::number(text, &range)).unwrap_or(default)
    }

    /// A duration of `range`.
    pub(super) fn duration(
        &mut self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.parsed(name, self.raw(name), |text| value::duration_of(text, &range)).unwrap_or(default)
    }

    /// What `parse` makes of a variable that is set and not empty.
    pub(super) fn parse<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        self.parsed(name, self.text(name), parse)
    }

    /// The same for a value that must not be shown.
    pub(super) fn parse_secret<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(self.text(name)?);
        parsed.map_err(|reason| self.note(Invalid::env(name, "<redacted>", reason))).ok()
    }

    /// Notes that `name`, set or not, cannot be used.
    pub(super) fn reject(&mut self, name: &str, reason: impl Into<String>) {
        let value = self.raw(name).unwrap_or_default();
        self.note(Invalid::env(name, value, reason.into()));
    }

    /// Notes something bad, once however often it is read.
    pub(super) fn note(&mut self, invalid: Invalid) {
        if !self.invalid.contains(&invalid) {
            self.invalid.push(invalid);
        }
    }

    /// Notes something bad that can be ignored.
    pub(super) fn warn(&mut self, name: &str, value: &str, reason: String) {
        self.warnings.push(Invalid::env(name, value, reason));
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        value: Option<&'a str>,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        let value = value?;
        parse(value).map_err(|reason| self.note(Invalid::env(name, value, reason))).ok()
    }
}

// === impl Invalid ===

impl Invalid {
    /// A bad variable.
    pub(super) fn env(name: &str, value: &str, reason: String) -> Self {
        let (name, value) = (name.to_owned(), value.to_owned());
        Self { origin: Origin::Environment, name, value, reason }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.origin {
            Origin::Environment => "env var",
            Origin::MeshFile => "mesh config",
        };
        write!(f, "invalid {what} ")?;
        visible(f, &self.name)?;
        f.write_str("=")?;
        visible(f, &self.value)?;
        write!(f, " ({})", self.reason)
    }
}

impl std::error::Error for Invalid {}

/// Writes `text` shortened and on one line, whatever is in it.
fn visible(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars().take(SHOWN_CHARS) {
        if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }?;
    }
    if text.chars().nth(SHOWN_CHARS).is_some() { f.write_str("…") } else { Ok(()) }
}
