//! Families of metrics: declared once, kept within bounds, and read by whoever encodes them.

mod cell;
mod computed;
mod declaration;
pub(crate) mod declared;
mod family;
mod labels;
mod sample;

pub(super) use self::{
    cell::{Cell, Counter, Timer},
    declaration::unit,
    family::{Family, Set},
    labels::{Labels, Values},
    sample::{Encoder, Group, Header, Sample, Sampled, Value, gathered},
};
pub use self::{
    computed::{Computed, Readings},
    declaration::{Declaration, Kind, MetricsError},
};
