//! Which traces are exported, and how: README.md, "Traces, logs and metrics".

use serde::Serialize;

use super::{
    otlp::{CollectorConfig, ExportQueue},
    reader::Reader,
    var::Var,
};

const SAMPLER: Var = Var::new(
    "OTEL_TRACES_SAMPLER",
    "`always_on`, `always_off` or `traceidratio`, each also with `parentbased_` before it",
    "parentbased_always_on",
    "Which traces are exported. A trace that was not chosen is exported all the same if its connection failed, except \
     with `always_off` and `parentbased_always_off`.",
);
const SAMPLER_ARG: Var =
    Var::new("OTEL_TRACES_SAMPLER_ARG", "number from 0 to 1", "1", "The ratio of `traceidratio`.");

/// How traces are exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceConfig {
    /// Where to.
    pub collector: CollectorConfig,
    /// Which traces are exported.
    pub sampling: Sampling,
    /// What waits for the exporter.
    pub queue: ExportQueue,
}

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampling {
    /// A trace that was begun elsewhere is exported if its beginning was.
    pub parent_based: bool,
    /// Share of the others, from 0 to 1.
    pub ratio: f64,
}

// === impl Sampling ===

impl Sampling {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let share = r.parse_or_default(&SAMPLER_ARG, |text| {
            let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| "not a number from 0 to 1".to_owned())
        });
        let share = share.unwrap_or_default();
        let sampling = r.parse_or_default(&SAMPLER, |name| {
            let (parent_based, root) =
                name.strip_prefix("parentbased_").map_or((false, name), |root| (true, root));
            let ratio = match root {
                "always_on" => 1.0,
                "always_off" => 0.0,
                "traceidratio" => share,
                _ => {
                    return Err(
                        "not always_on, always_off or traceidratio, with or without parentbased_".into()
                    );
                }
            };
            Ok(Self { parent_based, ratio })
        });
        sampling.unwrap_or(Self { parent_based: true, ratio: 0.0 })
    }

    /// Whether traces that are not exported are kept until it is known that they did not fail. Who switches traces off
    /// wants none.
    pub fn keeps_failed(self) -> bool {
        self.ratio > 0.0
    }
}

#[cfg(test)]
mod tests;
