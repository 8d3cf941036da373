//! Families of metrics: each is declared once, kept within bounds, and read by the encoders.

mod cell;
mod computed;
mod declaration;
pub(crate) mod declared;
mod family;
mod labels;
mod sample;

pub(crate) use self::computed::{Computed, Readings};
pub(crate) use self::declaration::Kind;
pub use self::declaration::{Declaration, MetricsError};
pub(super) use self::{
    cell::{Cell, Counter, Timer},
    declaration::unit,
    family::{Family, Set},
    labels::{Labels, SetLabels, Values},
    sample::{Buckets, Encoder, Exemplar, Group, Header, Sample, Sampled, Value, gathered},
};
