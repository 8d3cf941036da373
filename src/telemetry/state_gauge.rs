//! Gauges of pods, certificates and quarantined actors by their state. They are counted when somebody asks, so that they
//! are never out of date and never missing.

use super::series::{
    Computed, Declaration, MetricsError,
    declared::{CERTIFICATES, PODS, QUARANTINED_ACTORS},
};

/// How many there are of each state or kind. All of them are named, also those of which there are none.
pub(crate) type Counts = Vec<(&'static str, u64)>;

/// Pods, by state.
///
/// # Errors
/// A name is not valid: a mistake in the declarations.
pub(crate) fn of_pods(count: impl Fn() -> Counts + Send + Sync + 'static) -> Result<Computed, MetricsError> {
    by_state(&[PODS], PODS, count)
}

/// Certificates, by state.
///
/// # Errors
/// As [`of_pods`].
pub(crate) fn of_certificates(
    count: impl Fn() -> Counts + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    by_state(&[CERTIFICATES], CERTIFICATES, count)
}

/// Actors in quarantine, by kind.
///
/// # Errors
/// As [`of_pods`].
pub(crate) fn of_quarantined_actors(
    count: impl Fn() -> Counts + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    by_state(&[QUARANTINED_ACTORS], QUARANTINED_ACTORS, count)
}

fn by_state(
    families: &'static [&'static Declaration],
    family: &'static Declaration,
    count: impl Fn() -> Counts + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    Computed::new(families, move |readings| {
        for (state, number) in count() {
            readings.put(family, &[state], number as f64);
        }
    })
}

#[cfg(test)]
mod tests;
