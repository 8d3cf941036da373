//! The budget where nobody has set it.

use crate::protocols::config::{Inputs, Memory, parse};

#[test]
fn the_budget_of_buffers_is_an_eighth_of_the_memory() {
    const GIB: u64 = 1 << 30;
    let cases = [
        (Memory { limit: Some(4 * GIB), machine: 100 * GIB }, GIB / 2),
        (Memory { limit: Some(64 * GIB), machine: 100 * GIB }, 8 * GIB),
        (Memory { limit: Some(GIB / 4), machine: 100 * GIB }, GIB / 16),
        (Memory { limit: None, machine: 4 * GIB }, GIB / 2),
        (Memory { limit: None, machine: 100 * GIB }, GIB),
        (Memory { limit: None, machine: 0 }, GIB / 16),
    ];
    for (memory, want) in cases {
        let vars = Default::default();
        let inputs = Inputs {
            vars: &vars,
            mesh_file: None,
            cores: 1,
            memory,
            file_exists: &|_| false,
            fake_ca_allowed: false,
        };
        assert_eq!(parse(&inputs).unwrap().tunnel.buffers.budget, want, "{memory:?}");
    }
}
