//! The command line of a test binary, as `cargo test` passes it: that of libtest.

use clap::Parser;

/// Which tests to run and how. The options that are hidden from the help are libtest's, and change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "test", disable_version_flag = true)]
pub(super) struct Options {
    /// Run only the tests whose names contain one of these
    filters: Vec<String>,
    /// Leave out the tests whose names contain this; may be given several times
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// Match whole names
    #[arg(long)]
    exact: bool,
    /// Print the names of the tests instead of running them
    #[arg(long)]
    pub(super) list: bool,
    /// Show the output of tests that pass, too
    #[arg(long, visible_alias = "no-capture")]
    pub(super) nocapture: bool,
    /// Run only tests that are marked as ignored; there are none
    #[arg(long)]
    ignored: bool,
    #[command(flatten)]
    accepted: Accepted,
}

/// Options of libtest that change nothing here.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
struct Accepted {
    #[arg(long, hide = true)]
    test_threads: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(short = 'Z', hide = true)]
    unstable: Vec<String>,
    #[arg(long, hide = true)]
    logfile: Option<String>,
    #[arg(long, hide = true)]
    shuffle_seed: Option<String>,
    #[arg(short, long, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    test: bool,
    #[arg(long, hide = true)]
    shuffle: bool,
    #[arg(long, hide = true)]
    report_time: bool,
    #[arg(long, hide = true)]
    ensure_time: bool,
}

// === impl Options ===

impl Options {
    /// Whether the test called `name` is among those to run.
    pub(super) fn wants(&self, name: &str) -> bool {
        let matches =
            |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        let chosen = self.filters.is_empty() || self.filters.iter().any(matches);
        chosen && !self.skip.iter().any(matches) && !self.ignored
    }
}

#[cfg(test)]
mod tests;
