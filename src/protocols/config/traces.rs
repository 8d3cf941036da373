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
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocols::config::Inputs;

    fn sampling(vars: &[(&str, &str)]) -> Sampling {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let inputs = Inputs {
            vars: &vars,
            mesh_file: None,
            cores: 1,
            file_exists: &|_| false,
            fake_ca_allowed: false,
        };
        let mut r = Reader::new(&inputs);
        let sampling = Sampling::read(&mut r);
        r.finish().unwrap();
        sampling
    }

    #[test]
    fn samplers_by_name() {
        for (name, parent_based, ratio) in [
            ("always_on", false, 1.0),
            ("always_off", false, 0.0),
            ("traceidratio", false, 0.25),
            ("parentbased_always_on", true, 1.0),
            ("parentbased_always_off", true, 0.0),
            ("parentbased_traceidratio", true, 0.25),
        ] {
            let vars = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
            assert_eq!(sampling(&vars), Sampling { parent_based, ratio }, "{name}");
        }
    }
}
