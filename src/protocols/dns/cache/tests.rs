use super::*;

const V4: &str = "192.0.2.1";

fn addresses(text: &[&str]) -> Arc<[IpAddr]> {
    text.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn an_answer_is_kept_as_long_as_it_lives_within_the_bounds() {
    let (mut cache, now) = (NameCache::default(), Instant::now());
    for (name, life, kept) in [("a", 0, 1), ("b", 30, 30), ("c", 86_400, 300)] {
        let (life, kept) = (Duration::from_secs(life), Duration::from_secs(kept));
        cache.put(name.into(), addresses(&[V4]), life, now);
        let last = now + kept - Duration::from_millis(1);
        assert_eq!(cache.get(name, last), Some(addresses(&[V4])), "{name}");
        assert_eq!(cache.get(name, now + kept), None, "{name}");
    }
}

#[test]
fn a_name_without_addresses_is_kept_too() {
    let (mut cache, now) = (NameCache::default(), Instant::now());
    cache.put("none".into(), addresses(&[]), Duration::from_secs(60), now);
    assert_eq!(cache.get("none", now), Some(addresses(&[])));
    assert_eq!(cache.get("other", now), None);
}

#[test]
fn past_the_bound_the_dead_are_forgotten_and_then_who_would_end_first() {
    let (mut cache, now) = (NameCache::default(), Instant::now());
    let put = |cache: &mut NameCache, name: &str, seconds, now| {
        cache.put(name.into(), addresses(&[V4]), Duration::from_secs(seconds), now);
    };
    for number in 0..CACHED_NAMES {
        put(&mut cache, &format!("n{number}"), if number == 7 { 50 } else { 100 }, now);
    }
    put(&mut cache, "new", 100, now);
    assert_eq!((cache.0.len(), cache.get("n7", now)), (CACHED_NAMES, None));
    assert!(cache.get("new", now).is_some() && cache.get("n8", now).is_some());
    // One that is kept already needs no room.
    put(&mut cache, "n8", 200, now);
    assert_eq!(cache.0.len(), CACHED_NAMES);
    let later = now + Duration::from_secs(150);
    put(&mut cache, "late", 100, later);
    assert_eq!(cache.0.len(), 2, "n8 and late");
}
