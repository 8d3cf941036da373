//! What streams are lent of a budget, and that it never is more than there is.

use proptest::prelude::*;

use super::*;

const MIB: usize = 1 << 20;

/// The streams of tunnels of 100 streams each, all of which ask for `want`: their first windows and loans together.
fn all_ask(budget: &Arc<BufferBudget>, streams: usize, want: usize) -> usize {
    let shards = budget.shards.len();
    let mut first = 0;
    (0..streams)
        .map(|stream| {
            let shard = budget.of(stream / 100 % shards);
            if stream % 100 == 0 {
                first = shard.first_window();
            }
            shard.stream(true);
            first + shard.lend(0, want)
        })
        .sum()
}

#[test]
fn first_windows_shrink_with_the_number_of_streams() {
    let cases = [(0, 64 << 10), (64, 64 << 10), (256, 16 << 10), (1024, 4 << 10), (1_000_000, 2 << 10)];
    for (streams, want) in cases {
        let budget = BufferBudget::new(64 * MIB, 2);
        (0..streams).for_each(|stream| budget.of(stream % 2).stream(true));
        assert_eq!(budget.of(0).first_window(), want, "{streams} streams");
        (0..streams).for_each(|stream| budget.of(stream % 2).stream(false));
        assert_eq!(budget.of(1).first_window(), 64 << 10, "after {streams} streams");
    }
}

#[test]
fn few_streams_get_what_they_ask_for_and_the_next_still_get_a_share() {
    let budget = BufferBudget::new(64 * MIB, 1);
    let shard = budget.of(0);
    shard.stream(true);
    assert_eq!(shard.lend(0, 4 * MIB), 4 * MIB);
    // A hundred streams that take what they get, and never give it back.
    let mut last = 0;
    for _ in 0..100 {
        shard.stream(true);
        last = shard.lend(0, 4 * MIB);
    }
    assert!((32 << 10..MIB).contains(&last), "{last}");
}

#[test]
fn whatever_all_streams_ask_for_together_they_stay_within_the_budget() {
    for (limit, shards) in [(64 * MIB, 1), (64 * MIB, 4), (1024 * MIB, 16)] {
        for streams in [100, 1000, 2000, 4000] {
            let budget = BufferBudget::new(limit, shards);
            let all = all_ask(&budget, streams, 4 * MIB);
            assert!(all <= limit, "{streams} streams: {all} of {limit}");
            assert!(all >= limit / 4, "{streams} streams: {all} of {limit}");
        }
    }
}

#[test]
fn a_loan_shrinks_when_the_budget_is_short_and_grows_again_when_it_is_not() {
    let budget = BufferBudget::new(64 * MIB, 1);
    let shard = budget.of(0);
    shard.stream(true);
    let loan = shard.lend(0, 4 * MIB);
    all_ask(&budget, 1000, 4 * MIB);
    let short = shard.lend(loan, loan);
    assert!(short < loan / 8, "{short} of {loan}");
    let free = BufferBudget::new(64 * MIB, 1);
    free.of(0).stream(true);
    assert_eq!(free.of(0).lend(0, short), short);
    assert_eq!(free.of(0).lend(short, 4 * MIB), 4 * MIB);
}

proptest! {
    /// Loans of any history are those of the streams that live, but for what shards keep at hand.
    #[test]
    fn what_is_lent_is_what_streams_have(
        steps in prop::collection::vec((0usize..3, 0usize..8, 0usize..8 * MIB), 1..200),
        shards in 1usize..4,
    ) {
        let budget = BufferBudget::new(64 * MIB, shards);
        let mut streams = vec![None::<usize>; 24];
        for (shard, stream, want) in steps {
            let at = shard * 8 + stream;
            let shard = budget.of(shard);
            match streams[at] {
                None => {
                    shard.stream(true);
                    streams[at] = Some(0);
                }
                Some(loan) if want % 5 == 0 => {
                    shard.give_back(loan);
                    shard.stream(false);
                    streams[at] = None;
                }
                Some(loan) => streams[at] = Some(shard.lend(loan, want)),
            }
            let have: usize = streams.iter().flatten().sum();
            prop_assert_eq!(budget.lent(), have);
            prop_assert_eq!(budget.streams(), streams.iter().flatten().count().max(1));
            prop_assert!(budget.lent.load(Relaxed) <= have + 3 * 2 * budget.chunk() + budget.chunk());
        }
    }
}
