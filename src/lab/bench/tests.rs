use super::*;

#[test]
fn measurements_of_the_same_mesh_share_it() {
    use Measure::*;
    let meshes = meshes(clap::ValueEnum::value_variants());
    assert_eq!(meshes[0], [Start, Idle, Tp1, Tp1r, Tp8, Lat1, Rps, Cps]);
    assert_eq!(meshes[1..], [vec![Hot, Neighbour, Stalled], vec![Local], vec![Stall], vec![Bulk]]);
}
