//! Replays the inputs that are kept for the fuzzer, and inputs of no meaning.

use std::{fs, path::Path};

use rand::{RngCore as _, SeedableRng as _, rngs::SmallRng};

/// The inputs that are kept for a target.
fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.unwrap().path());
    paths.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

fn replay(name: &str, target: fn(&[u8])) {
    let inputs = kept(name);
    assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
    for (path, input) in &inputs {
        // The name of the input is seen if the target panics.
        println!("{path}");
        target(input);
    }
    let mut rng = SmallRng::seed_from_u64(1);
    for round in 0..32 {
        let mut input = vec![0; round * 8];
        rng.fill_bytes(&mut input);
        target(&input);
    }
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
