//! The command line of a test binary.

/// Which tests to run and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    ignored_only: bool,
    pub(super) list: bool,
    /// Show a test's output only if it fails.
    pub(super) capture: bool,
}

/// A wrong command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionError {
    #[error("option {0} needs a value")]
    NoValue(String),
    #[error("unknown option {0}")]
    Unknown(String),
}

// === impl Options ===

impl Options {
    pub(super) fn parse(args: impl Iterator<Item = String>) -> Result<Self, OptionError> {
        let (filters, skips) = (Vec::new(), Vec::new());
        let mut options =
            Self { filters, skips, exact: false, ignored_only: false, list: false, capture: true };
        let mut args = args;
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (arg, None),
            };
            let mut value = || inline.clone().or_else(|| args.next());
            match name.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--nocapture" | "--no-capture" => options.capture = false,
                "--ignored" => options.ignored_only = true,
                "--skip" => options.skips.push(value().ok_or(OptionError::NoValue(name))?),
                "--test-threads" | "--color" | "--format" | "-Z" | "--logfile" | "--shuffle-seed" => {
                    value().ok_or(OptionError::NoValue(name))?;
                }
                "-q" | "--quiet" | "--show-output" | "--include-ignored" | "--test" | "--shuffle"
                | "--report-time" | "--ensure-time" => {}
                _ if name.starts_with('-') => return Err(OptionError::Unknown(name)),
                _ => options.filters.push(name),
            }
        }
        Ok(options)
    }

    /// Whether the test called `name` is among those to run. None is ever marked as ignored.
    pub(super) fn wants(&self, name: &str) -> bool {
        let matches =
            |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        let chosen = self.filters.is_empty() || self.filters.iter().any(matches);
        chosen && !self.skips.iter().any(matches) && !self.ignored_only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> Result<Vec<&'static str>, OptionError> {
        let options = Options::parse(args.iter().map(|arg| (*arg).to_owned()))?;
        Ok(["root::one", "root::one_more", "user::one"]
            .into_iter()
            .filter(|name| options.wants(name))
            .collect())
    }

    #[test]
    fn filters_are_substrings_unless_exact_and_skips_win() {
        assert_eq!(chosen(&[]).unwrap().len(), 3);
        assert_eq!(chosen(&["one_more", "user"]).unwrap(), ["root::one_more", "user::one"]);
        assert_eq!(chosen(&["--exact", "root::one"]).unwrap(), ["root::one"]);
        assert_eq!(chosen(&["root", "--skip=more"]).unwrap(), ["root::one"]);
        assert!(chosen(&["--ignored"]).unwrap().is_empty());
    }

    #[test]
    fn other_options_of_libtest_are_accepted_and_wrong_ones_are_not() {
        assert_eq!(chosen(&["--test-threads", "1", "--format=pretty", "-q", "user"]).unwrap(), ["user::one"]);
        assert_eq!(chosen(&["--skip"]), Err(OptionError::NoValue("--skip".into())));
        assert_eq!(chosen(&["--what"]), Err(OptionError::Unknown("--what".into())));
    }
}
