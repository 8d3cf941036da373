//! The metrics of the budget for bytes that wait for their readers. They are read for each scrape.

use std::sync::Arc;

use super::series::{
    Computed, MetricsError,
    declared::{BUFFER_BUDGET, BUFFER_BYTES, BUFFER_LENT},
};
use crate::protocols::hbone::budget::BufferBudget;

/// What waits, what is lent and what there is.
///
/// # Errors
/// A name is not valid, which is a mistake in the declarations.
pub(crate) fn of_buffers(budget: Arc<BufferBudget>) -> Result<Computed, MetricsError> {
    Computed::new(&[BUFFER_BYTES, BUFFER_LENT, BUFFER_BUDGET], move |readings| {
        readings.put(BUFFER_BYTES, &[], budget.held() as f64);
        readings.put(BUFFER_LENT, &[], budget.lent() as f64);
        readings.put(BUFFER_BUDGET, &[], budget.limit() as f64);
    })
}
