#![allow(clippy::unwrap_used)]

use prost::Message;

use super::*;

fn head() -> ProfileHead {
    ProfileHead {
        kinds: [("samples", "count"), ("cpu", "nanoseconds")],
        period: (("cpu", "nanoseconds"), 10_000_000),
        taken: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        duration: Duration::from_secs(2),
        code: 100..200,
        left_out: "",
        comments: vec!["2 samples were lost".to_owned()],
    }
}

fn named(name: &str, line: u32) -> NamedFunction {
    NamedFunction { name: name.to_owned(), file: "a.rs".to_owned(), line }
}

/// The text at an index of the table.
fn text(profile: &Profile, index: i64) -> &str {
    &profile.string_table[usize::try_from(index).unwrap()]
}

/// The names of a sample's functions, the innermost first.
fn names<'a>(profile: &'a Profile, sample: &Sample) -> Vec<&'a str> {
    let location = |id: &u64| profile.location.iter().find(|location| location.id == *id).unwrap();
    let function = |id: u64| profile.function.iter().find(|function| function.id == id).unwrap();
    let lines = sample.location_id.iter().flat_map(|id| &location(id).line);
    lines.map(|line| text(profile, function(line.function_id).name)).collect()
}

#[test]
fn a_profile_tells_each_address_and_function_once_and_all_ids_exist() {
    let mut asked = Vec::new();
    let mut builder = ProfileBuilder::new(head(), |address| {
        asked.push(address);
        match address {
            110 => vec![named("inlined", 7), named("outer", 3)],
            120 => vec![named("main", 1)],
            _ => vec![],
        }
    });
    builder.add(&[110, 120], [3, 30], Some("shard-0"));
    builder.add(&[900, 110, 120], [1, 10], Some("shard-1"));
    builder.add(&[120], [1, 10], None);
    let profile = Profile::decode(&*builder.finish().encode_to_vec()).unwrap();
    assert_eq!(asked, [110, 120, 900]);
    assert_eq!((profile.location.len(), profile.function.len(), profile.sample.len()), (3, 3, 3));
    assert_eq!(names(&profile, &profile.sample[0]), ["inlined", "outer", "main"]);
    assert_eq!(names(&profile, &profile.sample[1]), ["inlined", "outer", "main"]);
    assert_eq!(profile.sample[0].value, [3, 30]);
    let label = &profile.sample[1].label[0];
    assert_eq!((text(&profile, label.key), text(&profile, label.str)), ("thread", "shard-1"));
    assert!(profile.sample[2].label.is_empty());
    // An address without a name is outside of the program here.
    let mappings: Vec<u64> = profile.location.iter().map(|location| location.mapping_id).collect();
    assert_eq!(mappings, [1, 1, 0]);
    let kinds: Vec<&str> = profile.sample_type.iter().map(|kind| text(&profile, kind.r#type)).collect();
    assert_eq!(kinds, ["samples", "cpu"]);
    assert_eq!(
        (profile.time_nanos, profile.duration_nanos, profile.period),
        (5_000_000_000, 2_000_000_000, 10_000_000)
    );
    assert_eq!(text(&profile, profile.comment[0]), "2 samples were lost");
    assert_eq!(profile.string_table[0], "");
}

#[test]
fn a_small_block_stands_for_many_and_a_large_one_for_itself() {
    let (objects, bytes) = stands_for(1 << 30, 1 << 19);
    assert!((objects - 1.0).abs() < 1e-9 && (bytes - (1u64 << 30) as f64).abs() < 1.0, "{objects} {bytes}");
    let (objects, bytes) = stands_for(64, 1 << 19);
    assert!((objects - 8192.5).abs() < 0.1 && (bytes / 64.0 - objects).abs() < 1e-6, "{objects} {bytes}");
    assert!(stands_for(0, 0).0.is_finite());
}

#[test]
fn a_method_of_a_trait_is_named_by_its_type() {
    for (name, shown) in [
        ("a::b", "a::b"),
        ("<a::A as b::B>::c", "a::A::c"),
        ("<a::A<T> as b::B<U>>::c::{{closure}}", "a::A<T>::c::{{closure}}"),
        ("<<a::A as b::B>::C as d::D>::e", "a::A::C::e"),
        ("<F as core::ops::Fn<(A,)>>::call", "F::call"),
        ("<fn(A) -> B as c::C>::d", "fn(A) -> B::d"),
        ("<[T]>::sort", "[T]::sort"),
        ("<broken", "broken"),
        ("<", ""),
    ] {
        assert_eq!(readable(name), shown, "{name}");
    }
}
