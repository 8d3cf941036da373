#![allow(clippy::unwrap_used)]

use http_body_util::BodyExt;

use super::*;
use crate::{protocols::pb::profile::Profile, sys::profiler::cpu::SampledStack};

/// Status and body of an answer. A body that is cut short fails.
async fn ask(profiles: &Profiles, path: &str) -> (u16, Bytes) {
    let (request, ()) = http::Request::get(path).body(()).unwrap().into_parts();
    let answer = profiles.answer(&request).await;
    (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes())
}

async fn refused(profiles: &Profiles, path: &str) -> (u16, String) {
    let (status, body) = ask(profiles, path).await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_out_of_range_is_refused_by_name_and_starts_nothing() {
    let profiles = Profiles::default();
    for (query, said) in [
        ("seconds=0", "seconds is a whole number from 1 to 300, not \"0\"\n"),
        ("seconds=301", "seconds is a whole number from 1 to 300, not \"301\"\n"),
        ("seconds=1.5", "seconds is a whole number from 1 to 300, not \"1.5\"\n"),
        ("seconds=", "seconds is a whole number from 1 to 300, not \"\"\n"),
        ("frequency=0", "frequency is a whole number from 1 to 1000, not \"0\"\n"),
        ("seconds=1&frequency=1001", "frequency is a whole number from 1 to 1000, not \"1001\"\n"),
    ] {
        let answer = refused(&profiles, &format!("/debug/pprof/profile?{query}")).await;
        assert_eq!(answer, (400, said.to_owned()), "{query}");
    }
    let answer = refused(&profiles, "/debug/pprof/heap/profiling?activate=yes").await;
    assert_eq!(answer, (400, "activate is true or false, not \"yes\"\n".to_owned()));
    assert_eq!(refused(&profiles, "/debug/pprof/").await, (404, String::new()));
}

#[tokio::test]
async fn a_heap_profile_needs_an_allocator_that_can_be_profiled() {
    let profiles = Profiles::default();
    let off = (200, "heap profiling active: false\n".to_owned());
    assert_eq!(refused(&profiles, "/debug/pprof/heap/profiling").await, off);
    assert_eq!(refused(&profiles, "/debug/pprof/heap/profiling?activate=false").await, off);
    let (status, said) = refused(&profiles, "/debug/pprof/heap").await;
    assert!(status == 500 && said.contains("activate=true"), "{status} {said}");
    let _turn = profiles.heap_turns.clone().try_acquire_owned().unwrap();
    assert_eq!(refused(&profiles, "/debug/pprof/heap").await.0, 409);
}

#[test]
fn the_processor_time_is_shared_among_the_samples() {
    let stack = |thread: &str, addresses: &[usize], count| SampledStack {
        thread: thread.to_owned(),
        addresses: addresses.into(),
        count,
    };
    let here = heap::is_active as *const () as usize;
    let profile = CpuProfile {
        stacks: vec![stack("shard-0", &[here], 3), stack("shard-1", &[here], 1)],
        lost: 2,
        taken: (std::time::SystemTime::UNIX_EPOCH, Duration::from_secs(1)),
        used: Duration::from_secs(2),
    };
    let made = Profile::decode(&*of_cpu(&profile, 100).encode_to_vec()).unwrap();
    let values: Vec<_> = made.sample.iter().map(|sample| sample.value.clone()).collect();
    assert_eq!(values, [[3, 1_500_000_000], [1, 500_000_000]]);
    assert_eq!((made.period, made.location.len()), (10_000_000, 1));
    assert!(
        made.string_table.iter().any(|text| text.ends_with("heap::is_active")),
        "{:?}",
        made.string_table
    );
    assert!(made.string_table.iter().any(|text| text.starts_with("2 samples were left out")));
}

#[test]
fn a_heap_profile_says_what_its_samples_stand_for() {
    let here: Arc<[usize]> = [heap::is_active as *const () as usize].into();
    let profile = HeapProfile {
        stacks: [(here, vec![HEAP_PERIOD * 64, HEAP_PERIOD * 64])].into(),
        lost: 0,
        since: std::time::SystemTime::UNIX_EPOCH,
    };
    let made = of_heap(&profile);
    assert_eq!(made.sample[0].value, [2, HEAP_PERIOD as i64 * 128]);
    assert!(made.string_table.iter().any(|text| text == "what was allocated since 1970-01-01T00:00:00Z"));
}
