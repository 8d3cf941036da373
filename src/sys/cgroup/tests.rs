//! Limits of memory, read from a tree of files like that of the kernel.

use super::*;

/// Paths and texts of files.
type Files<'a> = &'a [(&'a str, &'a str)];

/// A directory of its own with these files.
fn tree(name: &str, files: Files<'_>) -> PathBuf {
    let root = std::env::temp_dir().join(format!("warren-cgroup-{}-{name}", std::process::id()));
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn the_smallest_limit_on_the_way_up_counts() {
    let cases: [(&str, Files<'_>, Option<u64>); 8] = [
        ("0::/a/b", &[("a/b/memory.max", "1000\n"), ("a/memory.max", "2000\n")], Some(1000)),
        ("0::/a/b", &[("a/b/memory.max", "max\n"), ("a/memory.max", "2000\n")], Some(2000)),
        ("0::/a/b", &[("a/b/memory.max", "max\n")], None),
        // A container has its own group at the mount point, whatever it is called outside.
        ("0::/outside/pod", &[("memory.max", "512")], Some(512)),
        ("5:cpu,memory:/k\n0::/", &[("memory/k/memory.limit_in_bytes", "77")], Some(77)),
        ("5:memory:/k", &[("memory/k/memory.limit_in_bytes", "9223372036854771712")], None),
        ("5:cpu:/k", &[("memory/k/memory.limit_in_bytes", "77")], None),
        ("nonsense", &[], None),
    ];
    for (i, (groups, files, want)) in cases.into_iter().enumerate() {
        let root = tree(&i.to_string(), files);
        assert_eq!(limit_below(&root, groups), want, "{groups:?} {files:?}");
        let _ = fs::remove_dir_all(root);
    }
}

#[test]
fn the_memory_of_the_machine_is_read_in_bytes() {
    let cases = [
        ("MemTotal:       16384 kB\nMemFree: 1 kB\n", Some(16 << 20)),
        ("MemTotal: x kB\n", None),
        ("", None),
    ];
    for (text, want) in cases {
        assert_eq!(total(text), want, "{text:?}");
    }
    assert!(machine_memory().is_some_and(|bytes| bytes > 1 << 20));
}
