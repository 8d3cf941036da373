//! The sample meshes are meshes.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

use warren::lab::{control::mesh_file::Mesh, topology::Topology};

#[test]
fn every_sample_mesh_can_be_raised() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let mesh = Mesh::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Topology::of(&mesh, false).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!mesh.pods.is_empty(), "{}", path.display());
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["shop", "two-nodes"]);
}

/// What the comments of a sample say to try is in the sample when the comment signs are taken away.
#[test]
fn the_policies_to_try_are_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/lab/two-nodes.yaml");
    let text = fs::read_to_string(path).unwrap();
    let (before, to_try) = text.split_once("# policies:\n").unwrap();
    let lines: String =
        to_try.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap())).collect();
    let mesh = Mesh::parse(&format!("{before}policies:\n{lines}")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((mesh.policies.len(), mesh.strict.len()), (1, 1));
}
