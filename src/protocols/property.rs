//! How the tests of properties draw their cases, and how a failure is seen again.

use std::{cell::RefCell, collections::BTreeMap, env};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};

/// Holds `test` against `cases` values of `strategy`, or `PROPTEST_CASES` values. A failure names the seed; with that
/// seed in `PROPTEST_RNG_SEED` the same cases come again.
pub(crate) fn check<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = Config::default();
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    let cases = if env::var_os("PROPTEST_CASES").is_some() { config.cases } else { cases };
    let config = Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..config };
    if let Err(error) = TestRunner::new(config).run(strategy, test) {
        panic!("{error}\nPROPTEST_RNG_SEED={seed} repeats this");
    }
}

/// How often the cases of a property came to what, so that none of the possibilities is left out unseen.
#[derive(Default)]
pub(crate) struct Tally(RefCell<BTreeMap<&'static str, usize>>);

impl Tally {
    pub(crate) fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }

    /// Checks that each of `all` came at least `least` times, unless the number of cases is another one.
    pub(crate) fn has_each_of(&self, all: &[&'static str], least: usize) {
        if env::var_os("PROPTEST_CASES").is_some() {
            return;
        }
        let counts = self.0.borrow();
        for what in all {
            let count = counts.get(what).copied().unwrap_or_default();
            assert!(count >= least, "{what} came {count} times: {counts:?}");
        }
    }
}
