//! The command line of `warren lab chaos`.

use std::{path::PathBuf, time::Duration};

/// What to break, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChaosArgs {
    /// What chance is drawn from.
    pub seed: u64,
    /// Go on in rounds for so long; unset: one round of the matrix, a minute of the soak.
    pub duration: Option<Duration>,
    /// Pairs of a kind and a fault, `*` for any; none: all.
    pub only: Vec<(String, String)>,
    /// Instead of what is allowed usually.
    pub allowed: Option<PathBuf>,
    /// Where the results go as JSON.
    pub json: Option<PathBuf>,
    /// Where the results go as Markdown.
    pub markdown: Option<PathBuf>,
    /// Results of earlier runs, as JSON, that belong into the same tables.
    pub add: Vec<PathBuf>,
    /// One random kill a second instead of the matrix.
    pub soak: bool,
}

/// A mistake on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A seed that is no number.
    #[error("--seed takes a whole number, not {0:?}")]
    Seed(String),
    /// A duration that is none.
    #[error("--duration takes a time such as 90s, 5m or 1h, not {0:?}")]
    Duration(String),
    /// A choice that is none.
    #[error("--only takes KIND/FAULT, such as xds/kill, */panic or pods/*, not {0:?}")]
    Only(String),
    /// Nothing fits the choices.
    #[error("--only leaves nothing to do: no such kind or fault")]
    Nothing,
}

// === impl ChaosArgs ===

impl Default for ChaosArgs {
    fn default() -> Self {
        Self {
            seed: 1,
            duration: None,
            only: Vec::new(),
            allowed: None,
            json: None,
            markdown: None,
            add: Vec::new(),
            soak: false,
        }
    }
}

impl ChaosArgs {
    /// Whether an option is one of these; it takes a value if so.
    pub fn knows(option: &str) -> bool {
        ["--seed", "--duration", "--only", "--allowed", "--json", "--markdown", "--add"].contains(&option)
    }

    /// Takes in an option and its value.
    ///
    /// # Errors
    /// The value is none for this option.
    pub fn set(&mut self, option: &str, value: String) -> Result<(), ArgsError> {
        match option {
            "--seed" => self.seed = value.parse().map_err(|_| ArgsError::Seed(value))?,
            "--duration" => self.duration = Some(duration(&value).ok_or(ArgsError::Duration(value))?),
            "--allowed" => self.allowed = Some(value.into()),
            "--json" => self.json = Some(value.into()),
            "--markdown" => self.markdown = Some(value.into()),
            "--add" => self.add.push(value.into()),
            _ => {
                for choice in value.split(',') {
                    let pair =
                        choice.rsplit_once('/').filter(|(kind, fault)| !kind.is_empty() && !fault.is_empty());
                    let (kind, fault) = pair.ok_or_else(|| ArgsError::Only(choice.to_owned()))?;
                    self.only.push((kind.to_owned(), fault.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Whether this is to be done.
    pub(super) fn wants(&self, kind: &str, fault: &str) -> bool {
        let fits = |wanted: &str, is: &str| wanted == "*" || wanted == is;
        self.only.is_empty() || self.only.iter().any(|(k, f)| fits(k, kind) && fits(f, fault))
    }
}

/// Up to some years; none for zero.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    (1..=1_000_000).contains(&number).then(|| Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_pairs_and_a_star_is_anything() {
        let mut args = ChaosArgs::default();
        assert!(args.wants("xds", "kill"));
        args.set("--only", "xds/kill,*/panic".to_owned()).unwrap();
        args.set("--only", "admin stats/*".to_owned()).unwrap();
        let wanted = [("xds", "kill"), ("mesh", "panic"), ("admin stats", "slow")];
        assert!(wanted.iter().all(|(kind, fault)| args.wants(kind, fault)));
        assert!(!args.wants("xds", "hang"));
    }

    #[test]
    fn mistakes_are_named() {
        for (option, value, error) in [
            ("--seed", "x", "--seed takes a whole number, not \"x\""),
            ("--duration", "0s", "--duration takes a time such as 90s, 5m or 1h, not \"0s\""),
            ("--duration", "5d", "--duration takes a time such as 90s, 5m or 1h, not \"5d\""),
            ("--only", "xds", "--only takes KIND/FAULT, such as xds/kill, */panic or pods/*, not \"xds\""),
        ] {
            let refused = ChaosArgs::default().set(option, value.to_owned()).unwrap_err();
            assert_eq!(refused.to_string(), error);
        }
        assert_eq!(duration("90"), Some(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7200)));
    }
}
