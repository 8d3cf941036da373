//! Reads single variables and gathers what is wrong with them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use super::{
    inputs::Inputs,
    value,
    var::{Section, Var},
};

/// How much of a bad value is shown.
/// Limit: a bad setting's value in an error: 200 characters; past it: the value is cut.
const SHOWN_VALUE_CHARS: usize = 200;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where the setting comes from.
    pub origin: Origin,
    /// The variable or key.
    pub name: String,
    /// The value. It is `<redacted>` if it could be a secret.
    pub value: String,
    /// What is wrong with the value.
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

/// Reads variables. A bad value is noted and the default is taken in its place, so that reading goes on.
pub(super) struct Reader<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    invalid: Vec<Invalid>,
    warnings: Vec<Invalid>,
    /// The subject of what is read now.
    title: Cell<&'static str>,
    /// Every variable that was asked for.
    asked: RefCell<Vec<Section>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(inputs: &'a Inputs<'a>) -> Self {
        let (invalid, warnings) = (Vec::new(), Vec::new());
        Self { inputs, invalid, warnings, title: Cell::new(""), asked: RefCell::default() }
    }

    /// What is read from here on is about `title`.
    pub(super) fn section(&self, title: &'static str) {
        self.title.set(title);
    }

    /// Every variable that was asked for, by subject.
    pub(super) fn into_asked(self) -> Vec<Section> {
        self.asked.into_inner()
    }

    /// Notes that `var` was asked for.
    fn asked(&self, var: &'static Var) {
        let (title, mut asked) = (self.title.get(), self.asked.borrow_mut());
        if asked.iter().any(|section| section.vars.contains(&var)) {
            return;
        }
        match asked.iter_mut().find(|section| section.title == title) {
            Some(section) => section.vars.push(var),
            None => asked.push(Section { title, vars: vec![var] }),
        }
    }

    /// The warnings.
    ///
    /// # Errors
    /// Everything noted as bad.
    pub(super) fn finish(self) -> Result<Vec<Invalid>, Vec<Invalid>> {
        if self.invalid.is_empty() { Ok(self.warnings) } else { Err(self.invalid) }
    }

    /// The variable as it is, the empty text included.
    pub(super) fn raw(&self, var: &'static Var) -> Option<&'a str> {
        self.asked(var);
        let vars: &'a BTreeMap<String, String> = self.inputs.vars;
        vars.get(var.name).map(String::as_str)
    }

    /// The variable; empty is the same as unset.
    pub(super) fn text(&self, var: &'static Var) -> Option<&'a str> {
        self.raw(var).filter(|value| !value.is_empty())
    }

    /// The variable, or its default as text.
    pub(super) fn text_or_default(&self, var: &'static Var) -> String {
        self.text(var).unwrap_or(var.default).to_owned()
    }

    /// Every variable whose name starts as that of `var` does, without that and by name.
    pub(super) fn prefixed(&self, var: &'static Var) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.asked(var);
        let prefix = var.prefix();
        let vars: &'a BTreeMap<String, String> = self.inputs.vars;
        vars.iter().filter_map(move |(name, value)| {
            let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
            Some((rest, value.as_str()))
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, var: &'static Var) -> bool {
        self.with_default(var, value::boolean).unwrap_or_default()
    }

    /// `true`, `false` or unset.
    pub(super) fn flag(&mut self, var: &'static Var) -> Option<bool> {
        self.parsed(var, self.raw(var), value::boolean)
    }

    /// A plain decimal number of `range`.
    pub(super) fn number<T>(&mut self, var: &'static Var, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display + Default,
    {
        self.with_default(var, |text| value::number(text, &range)).unwrap_or_default()
    }

    /// A plain decimal number of `range`, if the variable is set.
    pub(super) fn maybe_number<T>(&mut self, var: &'static Var, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        self.parsed(var, self.raw(var), |text| value::number(text, &range))
    }

    /// A duration of `range`.
    pub(super) fn duration(&mut self, var: &'static Var, range: RangeInclusive<Duration>) -> Duration {
        self.with_default(var, |text| value::duration_of(text, &range)).unwrap_or_default()
    }

    /// A duration of `range`, if the variable is set.
    pub(super) fn maybe_duration(
        &mut self,
        var: &'static Var,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.parsed(var, self.raw(var), |text| value::duration_of(text, &range))
    }

    /// What `parse` makes of a variable that is set and not empty.
    pub(super) fn parse<T>(
        &mut self,
        var: &'static Var,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        self.parsed(var, self.text(var), parse)
    }

    /// What `parse` makes of a variable, or of its default if it is not set or empty.
    pub(super) fn parse_or_default<T>(
        &mut self,
        var: &'static Var,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.parsed(var, self.text(var), &parse).or_else(|| self.default_of(var, parse))
    }

    /// The same for a value that must not be shown.
    pub(super) fn parse_secret<T>(
        &mut self,
        var: &'static Var,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(self.text(var)?);
        parsed.map_err(|reason| self.note(Invalid::env(var.name, "<redacted>", reason))).ok()
    }

    /// What `parse` makes of a variable that the incumbent tolerates. A value that cannot be used is only a warning, and
    /// counts as not set.
    pub(super) fn tolerate<T>(
        &mut self,
        var: &'static Var,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.text(var)?;
        parse(value).map_err(|reason| self.warn(var.name, value, format!("ignored: {reason}"))).ok()
    }

    /// Notes that `var`, set or not, cannot be used.
    pub(super) fn reject(&mut self, var: &'static Var, reason: impl Into<String>) {
        let value = self.raw(var).unwrap_or_default();
        self.note(Invalid::env(var.name, value, reason.into()));
    }

    /// Notes a bad value. A value that is read several times is noted once.
    pub(super) fn note(&mut self, invalid: Invalid) {
        if !self.invalid.contains(&invalid) {
            self.invalid.push(invalid);
        }
    }

    /// Notes something bad that can be ignored.
    pub(super) fn warn(&mut self, name: &str, value: &str, reason: String) {
        self.warnings.push(Invalid::env(name, value, reason));
    }

    fn with_default<T>(&mut self, var: &'static Var, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.parsed(var, self.raw(var), &parse).or_else(|| self.default_of(var, parse))
    }

    /// The default of `var`. A default that cannot be read is noted as a bad value is.
    fn default_of<T>(
        &mut self,
        var: &'static Var,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(var.default);
        parsed.map_err(|reason| self.note(Invalid::env(var.name, var.default, reason))).ok()
    }

    fn parsed<T>(
        &mut self,
        var: &'static Var,
        value: Option<&'a str>,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        let value = value?;
        parse(value).map_err(|reason| self.note(Invalid::env(var.name, value, reason))).ok()
    }
}

/// What `read` makes of an empty environment.
pub(super) fn defaults<T>(read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
    with_defaults(read).0
}

/// What `read` makes of an empty environment, and the variables it asks for.
pub(super) fn with_defaults<T>(read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<Section>) {
    let vars = BTreeMap::new();
    let inputs = Inputs {
        vars: &vars,
        mesh_file: None,
        cores: 1,
        memory: Default::default(),
        file_exists: &|_| false,
        fake_ca_allowed: false,
    };
    let mut r = Reader::new(&inputs);
    let read = read(&mut r);
    (read, r.into_asked())
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
    for c in text.chars().take(SHOWN_VALUE_CHARS) {
        if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }?;
    }
    if text.chars().nth(SHOWN_VALUE_CHARS).is_some() { f.write_str("…") } else { Ok(()) }
}
