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
        memory: Default::default(),
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
