//! Variables of the environment, each with the words that docs/settings.md has for it.

/// A variable. Each is declared beside the code that reads it, and the reader takes nothing else.
#[derive(Debug, PartialEq, Eq)]
pub struct Var {
    /// The name. A `*` at the end stands for all variables whose names begin so.
    pub name: &'static str,
    /// What a value looks like.
    pub form: &'static str,
    /// The value that is taken if the variable is not set, as an operator would write it, or words that describe the
    /// value. An empty text stands for no value.
    pub default: &'static str,
    /// What the variable does, in plain sentences.
    pub help: &'static str,
}

/// Variables of one subject.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// The subject.
    pub title: &'static str,
    /// In the order in which they are read.
    pub vars: Vec<&'static Var>,
}

/// Variables of the incumbent that deployments set and nothing here reads.
pub(super) const IGNORED: [Var; 1] =
    [Var::flag("INPOD_ENABLED", "", "The chart sets it. Pods are always served by istio-cni's hand-over.")];

// === impl Var ===

impl Var {
    pub(super) const fn new(
        name: &'static str,
        form: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, form, default, help }
    }

    /// A variable of any text.
    pub(super) const fn text(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, "text", default, help)
    }

    /// A variable that is `true` or `false`.
    pub(super) const fn flag(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, "boolean", default, help)
    }

    /// A variable of a plain decimal number.
    pub(super) const fn number(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, "number", default, help)
    }

    /// A variable of a duration.
    pub(super) const fn duration(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, "duration", default, help)
    }

    /// What the names of a variable with a `*` begin with.
    pub(super) fn prefix(&self) -> &'static str {
        self.name.strip_suffix('*').unwrap_or(self.name)
    }
}
