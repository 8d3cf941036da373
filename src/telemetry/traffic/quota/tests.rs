use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_identity_has_so_many_descriptions_in_an_hour_and_takes_nothing_from_others() {
    let quota = PeerQuota::default();
    let words: Vec<String> = (0..WORDS_MAX + 2).map(|word| word.to_string()).collect();
    let admitted = |who: &str| words.iter().filter(|word| quota.admits(who, &["same", word])).count();
    assert_eq!(admitted("a"), WORDS_MAX);
    // Those that were admitted stay so.
    assert_eq!((admitted("a"), quota.refused()), (WORDS_MAX, 4));
    assert!(quota.admits("b", &["same", "0"]));
    quota.sweep(Instant::now(), HOUR);
    assert!(!quota.admits("a", &["new"]));
    quota.sweep(Instant::now() + HOUR + Duration::from_secs(1), HOUR);
    assert!(quota.admits("a", &["new"]));
}

#[test]
fn so_many_identities_have_descriptions() {
    let quota = PeerQuota::default();
    let admitted = (0..IDENTITIES_MAX + 2).filter(|id| quota.admits(&id.to_string(), &["x"])).count();
    assert_eq!(admitted, IDENTITIES_MAX);
    assert!(quota.admits("0", &["y"]));
}
