//! Questions for single addresses, alone and against a control plane that is a model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn asked(demands: &mut Demands, name: &str, now: Instant) -> watch::Receiver<bool> {
    match demands.demand(name, now, true).unwrap() {
        Demanded::Asked(answer) => answer,
        Demanded::Answered => panic!("{name} counts as answered"),
    }
}

fn is_answered(demands: &mut Demands, name: &str, now: Instant, can_ask: bool) -> bool {
    matches!(demands.demand(name, now, can_ask), Ok(Demanded::Answered))
}

fn request(unsubscribe: &[&str], subscribe: &[&str]) -> Request {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Request { unsubscribe: texts(unsubscribe), subscribe: texts(subscribe) }
}

#[test]
fn all_who_demand_a_name_share_one_question_and_its_answer() {
    let (mut demands, now) = (Demands::default(), Instant::now());
    let (first, second) = (asked(&mut demands, "n/1", now), asked(&mut demands, "n/1", now));
    assert_eq!(demands.take(now), request(&[], &["n/1"]));
    asked(&mut demands, "n/1", now);
    assert_eq!(demands.take(now), Request::default(), "asked once");
    assert!(!*first.borrow());
    demands.answer("n/1", now);
    assert!(*first.borrow() && *second.borrow());
    assert!(is_answered(&mut demands, "n/1", now, true));
}

#[test]
fn an_answer_counts_for_a_while_and_longer_where_nobody_can_be_asked() {
    let (mut demands, now) = (Demands::default(), Instant::now());
    asked(&mut demands, "n/1", now);
    demands.take(now);
    demands.answer("n/1", now);
    let later = now + ANSWER_COUNTS_FOR;
    assert!(is_answered(&mut demands, "n/1", later - Duration::from_millis(1), true));
    assert!(is_answered(&mut demands, "n/1", later, false));
    asked(&mut demands, "n/1", later);
    // The server would not answer a subscription that it has.
    assert_eq!(demands.take(later), request(&["n/1"], &["n/1"]));
}

#[test]
fn a_question_without_an_answer_is_put_again() {
    let (mut demands, now) = (Demands::default(), Instant::now());
    let first = asked(&mut demands, "n/1", now);
    demands.take(now);
    let later = now + REPEATED_AFTER;
    asked(&mut demands, "n/1", later);
    asked(&mut demands, "n/1", later);
    assert_eq!(demands.take(later), request(&["n/1"], &["n/1"]));
    demands.answer("n/1", later);
    assert!(*first.borrow(), "who has waited since the first time is woken too");
}

#[test]
fn a_new_stream_is_told_of_open_questions_and_of_nothing_else() {
    let (mut demands, now) = (Demands::default(), Instant::now());
    for name in ["n/open", "n/answered"] {
        asked(&mut demands, name, now);
    }
    demands.take(now);
    demands.answer("n/answered", now);
    asked(&mut demands, "n/queued", now);
    let open: BTreeSet<String> = demands.begin(now).into_iter().collect();
    assert_eq!(open, ["n/open".to_owned(), "n/queued".to_owned()].into());
    assert_eq!(demands.take(now), Request::default());
    let later = now + ANSWER_COUNTS_FOR;
    asked(&mut demands, "n/answered", later);
    assert_eq!(demands.take(later), request(&[], &["n/answered"]), "the new stream did not subscribe to it");
}

#[test]
fn past_the_bound_the_oldest_answer_makes_room_and_then_questions_nobody_waits_for() {
    let (mut demands, now) = (Demands::default(), Instant::now());
    assert!(matches!(demands.demand("", now, true), Err(DemandError::Name(0))));
    assert!(matches!(demands.demand(&"x".repeat(1025), now, true), Err(DemandError::Name(1025))));
    let waiting: Vec<_> = (0..NAMES_MAX).map(|i| asked(&mut demands, &format!("n/{i}"), now)).collect();
    assert_eq!(demands.take(now).subscribe.len(), ASKED_AT_ONCE_MAX);
    assert!(demands.is_queued());
    assert_eq!(demands.demand("m/0", now, true).unwrap_err(), DemandError::Full("m/0".into()));
    demands.answer("n/7", now);
    let kept = asked(&mut demands, "m/1", now);
    assert!(!demands.knows("n/7"));
    assert!(matches!(demands.demand("m/2", now, true), Err(DemandError::Full(_))));
    drop(waiting);
    asked(&mut demands, "m/3", now);
    assert!(demands.knows("m/1") && !demands.knows("n/1") && demands.queue.len() == 2);
    assert!(!*kept.borrow());
}

/// A server that answers each new subscription, as istiod does: unless it has it already.
#[derive(Default)]
struct Server {
    subscribed: BTreeSet<String>,
    unanswered: Vec<String>,
}

impl Server {
    fn hear(&mut self, request: Request) {
        for name in &request.unsubscribe {
            self.subscribed.remove(name);
        }
        for name in request.subscribe {
            assert!(self.subscribed.insert(name.clone()), "{name} is asked for twice");
            self.unanswered.push(name);
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Demand(u8),
    Send,
    Answer,
    Later(u64),
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..6).prop_map(Op::Demand),
        3 => Just(Op::Send),
        3 => Just(Op::Answer),
        2 => (1u64..12).prop_map(Op::Later),
        1 => Just(Op::Reconnect),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_subscription_is_repeated_and_every_question_is_answered(
        ops in prop::collection::vec(op(), 1..80)
    ) {
        let (mut demands, mut server, mut now) = (Demands::default(), Server::default(), Instant::now());
        let mut waiting = Vec::new();
        for op in ops {
            match op {
                Op::Demand(name) => {
                    if let Demanded::Asked(answer) = demands.demand(&format!("n/{name}"), now, true).unwrap() {
                        waiting.push(answer);
                    }
                }
                Op::Send => server.hear(demands.take(now)),
                Op::Answer => {
                    for name in std::mem::take(&mut server.unanswered) {
                        demands.answer(&name, now);
                    }
                }
                Op::Later(seconds) => now += Duration::from_secs(seconds),
                Op::Reconnect => {
                    server = Server::default();
                    server.hear(Request { unsubscribe: Vec::new(), subscribe: demands.begin(now) });
                }
            }
            prop_assert_eq!(demands.answered.len() + demands.names.values().filter(|d| matches!(d, Demand::Open { .. })).count(), demands.names.len());
        }
        server.hear(demands.take(now));
        for name in std::mem::take(&mut server.unanswered) {
            demands.answer(&name, now);
        }
        prop_assert!(waiting.iter().all(|answer| *answer.borrow()));
    }
}
