//! Replays the inputs that are kept for the fuzzer, and inputs that are made of them by chance.

use std::{fs, path::Path};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// The inputs that are kept for a target.
fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.unwrap().path());
    paths.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

/// How many inputs are made of the kept ones, for each target, unless [`RUNS`] says otherwise.
const MADE: usize = 64;
/// The variable for a longer search without a nightly compiler.
const RUNS: &str = "WARREN_FUZZ_RUNS";

fn replay(name: &str, target: fn(&[u8])) {
    let inputs = kept(name);
    assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
    for (path, input) in &inputs {
        held(path, input, target);
    }
    let runs = std::env::var(RUNS).map_or(MADE, |runs| runs.parse().unwrap());
    let mut rng = SmallRng::seed_from_u64(runs as u64);
    for _ in 0..runs {
        let input = changed(&inputs, &mut rng);
        held("made", &input, target);
    }
}

/// Runs a target. If a promise is broken, the input is told.
fn held(origin: &str, input: &[u8], target: fn(&[u8])) {
    if let Err(panic) = std::panic::catch_unwind(|| target(input)) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("the input is {origin}, {hex}");
        std::panic::resume_unwind(panic);
    }
}

/// A kept input with some changes, which may be parts of others.
fn changed(inputs: &[(String, Vec<u8>)], rng: &mut SmallRng) -> Vec<u8> {
    let mut input = inputs[rng.random_range(0..inputs.len())].1.clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        let end = rng.random_range(at..=input.len().min(at + 16));
        match rng.random_range(0..6) {
            0 => input.insert(at, rng.random()),
            1 => drop(input.drain(at..end)),
            2 => input[at..end].iter_mut().for_each(|byte| *byte = rng.random()),
            3 => input[at..end].iter_mut().for_each(|byte| *byte = rng.random_range(0..8)),
            4 => input.extend_from_within(at..end),
            _ => {
                let other = &inputs[rng.random_range(0..inputs.len())].1;
                let from = rng.random_range(0..=other.len());
                input.splice(at..end, other[from..].iter().copied().take(64));
            }
        }
    }
    input
}

macro_rules! replayed {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), super::$name);
            }
        )*

        #[test]
        fn each_target_has_a_program_and_a_test() {
            let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            let mut programs: Vec<String> = fs::read_dir(programs)
                .unwrap()
                .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            programs.sort();
            assert_eq!(programs, [$(stringify!($name)),*]);
        }
    };
}

replayed!(
    adopted,
    certificates,
    connect,
    crl,
    dns_answer,
    dns_query,
    h2_client,
    h2_server,
    otlp,
    policy,
    proxy_protocol,
    settings,
    socks5,
    tls_handshake,
    tls_records,
    xds,
    zds
);
