//! Gauges of pods, certificates and quarantined actors by state. They are counted for each scrape, so that they are
//! never out of date and never missing.

use std::sync::Arc;

use super::series::{
    Computed, Declaration, MetricsError,
    declared::{
        CERTIFICATE_AGE, CERTIFICATE_LEFT, CERTIFICATES, FD_WAITERS, POD_FDS, PODS, POLICIES_MISSING,
        QUARANTINED_ACTORS,
    },
};

/// The count of each state or kind. Every state and kind is listed, even with a count of zero.
pub(crate) type Counts = Vec<(&'static str, u64)>;

/// The gauge of pods by state.
///
/// # Errors
/// A name is not valid, which is a mistake in the declarations.
pub(crate) fn of_pods(count: impl Fn() -> Counts + Send + Sync + 'static) -> Result<Computed, MetricsError> {
    by_state(&[PODS], PODS, count)
}

/// The gauge of certificates by state.
///
/// # Errors
/// The errors are those of [`of_pods`].
pub(crate) fn of_certificates(
    count: impl Fn() -> Counts + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    by_state(&[CERTIFICATES], CERTIFICATES, count)
}

/// The gauges of the oldest certificate's age and of the time until the next one expires. There are none without a
/// certificate.
///
/// # Errors
/// The errors are those of [`of_pods`].
pub(crate) fn of_certificate_times(
    read: impl Fn() -> Option<(f64, f64)> + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    Computed::new(&[CERTIFICATE_AGE, CERTIFICATE_LEFT], move |readings| {
        if let Some((age, left)) = read() {
            readings.put(CERTIFICATE_AGE, &[], age);
            readings.put(CERTIFICATE_LEFT, &[], left);
        }
    })
}

/// The gauge of quarantined actors by kind.
///
/// # Errors
/// The errors are those of [`of_pods`].
pub(crate) fn of_quarantined_actors(
    count: impl Fn() -> Counts + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    by_state(&[QUARANTINED_ACTORS], QUARANTINED_ACTORS, count)
}

/// The gauge of policies that the control plane does not have.
///
/// # Errors
/// The errors are those of [`of_pods`].
pub(crate) fn of_missing_policies(
    count: impl Fn() -> usize + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    Computed::new(&[POLICIES_MISSING], move |readings| readings.put(POLICIES_MISSING, &[], count() as f64))
}

/// The gauges of descriptors: `count` tells those of pods by name, and how many pods wait.
///
/// # Errors
/// The errors are those of [`of_pods`].
pub(crate) fn of_descriptors(
    count: impl Fn() -> (Vec<(Arc<str>, usize)>, usize) + Send + Sync + 'static,
) -> Result<Computed, MetricsError> {
    Computed::new(&[POD_FDS, FD_WAITERS], move |readings| {
        let (pods, waiting) = count();
        for (pod, number) in pods {
            readings.put(POD_FDS, &[&*pod], number as f64);
        }
        readings.put(FD_WAITERS, &[], waiting as f64);
    })
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
