use super::*;

/// Samples of shards that used these shares of a processor. No connection is assigned yet.
fn samples(busy: &[Option<u64>]) -> Samples {
    let shards = busy.iter().map(|busy| ShardSample { busy: *busy, ..ShardSample::default() }).collect();
    Samples { at: Instant::now(), last: None, shards }
}

/// Assigns `count` connections that shard 0 has accepted. Returns the number that each shard was assigned.
fn assign(samples: &mut Samples, count: usize) -> Vec<u64> {
    for _ in 0..count {
        let to = samples.lightest(0);
        samples.assign(to);
    }
    samples.shards.iter().map(|shard| shard.assigned).collect()
}

#[test]
fn connections_that_one_shard_accepts_are_shared_out() {
    for (count, expected) in [(1, [1, 0]), (2, [1, 1]), (8, [4, 4])] {
        assert_eq!(assign(&mut samples(&[Some(0), Some(0)]), count), expected, "{count} connections");
    }
    for shards in [4_usize, 32] {
        let shared = assign(&mut samples(&vec![Some(0); shards]), 16 * shards);
        assert!(shared.iter().all(|assigned| (12..=20).contains(assigned)), "{shared:?}");
    }
}

#[test]
fn two_that_follow_each_other_go_to_two_shards_whatever_came_before() {
    for first in [0, 1] {
        let mut samples = samples(&[Some(0), Some(0)]);
        samples.assign(first);
        let second = samples.lightest(first);
        samples.assign(second);
        assert_ne!(second, first);
        // Either shard may accept the third connection, and a little other load of one shard makes no difference.
        for busy in [[0, 0], [0, 90], [90, 0]] {
            samples.shards.iter_mut().zip(busy).for_each(|(shard, busy)| shard.busy = Some(busy));
            assert_eq!((samples.lightest(0), samples.lightest(1)), (first, first), "{busy:?}");
        }
    }
}

#[test]
fn two_that_follow_each_other_much_later_go_to_two_shards_if_the_first_is_still_there() {
    let mut samples = samples(&[Some(0), Some(0)]);
    let first = LoadGuard::new(&samples.shards[0].load, |load| &load.conns);
    samples.assign(0);
    samples.look(samples.at + 100 * SAMPLE_INTERVAL);
    assert_eq!((samples.lightest(0), samples.lightest(1)), (1, 1));
    drop(first);
    assert_eq!((samples.lightest(0), samples.lightest(1)), (0, 1), "nobody is there: no reason to hand over");
}

#[test]
fn connections_that_are_over_do_not_count() {
    let mut samples = samples(&[Some(0), Some(0)]);
    for _ in 0..8 {
        drop(LoadGuard::new(&samples.shards[0].load, |load| &load.conns));
        samples.assign(0);
    }
    assert_eq!(samples.lightest(0), 0);
    samples.assign(0);
    assert_eq!(samples.lightest(0), 0, "one of nine is still there");
    (0..3).for_each(|_| samples.assign(0));
    assert_eq!(samples.lightest(0), 1, "four of twelve are");
}

#[test]
fn connections_go_where_there_is_time_left_however_many_there_are() {
    assert_eq!(samples(&[Some(900), Some(300)]).lightest(0), 1);
    assert_eq!(samples(&[Some(300), Some(900)]).lightest(0), 0);
    assert_eq!(samples(&[Some(900), Some(300), Some(100)]).lightest(0), 2);
}

#[test]
fn a_shard_keeps_what_it_accepts_while_it_is_not_far_ahead() {
    assert_eq!(samples(&[Some(100), Some(0)]).lightest(0), 0);
    assert_eq!(samples(&[Some(1000), Some(900)]).lightest(0), 0);
    let mut both = samples(&[Some(500), Some(500)]);
    both.shards[0].assigned = 21;
    both.shards[1].assigned = 18;
    assert_eq!(both.lightest(0), 0);
}

#[test]
fn a_shard_without_a_thread_is_given_nothing() {
    assert_eq!(assign(&mut samples(&[Some(1000), None]), 8), [8, 0]);
    let nobody = Balancer::new([Arc::default(), Arc::default()]);
    assert_eq!((nobody.connection(1), nobody.tunnel(1)), (1, 1), "nobody serves yet");
}

#[test]
fn what_a_thread_uses_is_seen_and_so_is_its_end() {
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let working = std::thread::spawn(move || {
        tell.send(ThreadTime::of_this_thread()).unwrap();
        while ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            std::hint::spin_loop();
        }
    });
    let mut samples = samples(&[Some(0), Some(0)]);
    let time = told.recv().unwrap().unwrap();
    samples.shards[0].time = Some(time);
    let begun = samples.at;
    let mut look = |after| {
        samples.look(after);
        samples.shards[0].busy
    };
    assert_eq!(look(begun), Some(0), "too early to say");
    while time.used().unwrap() < SAMPLE_INTERVAL {
        std::thread::yield_now();
    }
    assert!(look(begun + 2 * SAMPLE_INTERVAL) > Some(0));
    drop(end);
    working.join().unwrap();
    while time.used().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(look(begun + 4 * SAMPLE_INTERVAL), None);
    let balance = Balancer(Mutex::new(samples));
    let used = balance.used(0);
    assert!(used >= SAMPLE_INTERVAL);
    balance.serves(0, None);
    assert_eq!(balance.used(0), used, "what a shard has used stays with it");
}

#[test]
fn a_shard_that_takes_nothing_is_given_no_more_until_it_does() {
    let mut samples = samples(&[Some(0), Some(0)]);
    let (begun, load) = (samples.at, samples.shards[1].load.clone());
    let waiting = HandedOver::new(&load);
    samples.look(begun + SAMPLE_INTERVAL);
    assert_eq!(assign(&mut samples, 8), [8, 0]);
    assert_eq!(samples.fewest_tunnels(), Some(0));
    let later = HandedOver::new(&load);
    waiting.taken();
    samples.look(begun + 2 * SAMPLE_INTERVAL);
    assert_eq!(assign(&mut samples, 8), [4, 4], "it is slow, but it takes what it is given");
    samples.look(begun + 3 * SAMPLE_INTERVAL);
    assert_eq!(assign(&mut samples, 8), [8, 0]);
    drop(later);
    samples.look(begun + 4 * SAMPLE_INTERVAL);
    assert_eq!(assign(&mut samples, 8), [4, 4]);
    let many: Vec<HandedOver> = (0..MOST_WAITING).map(|_| HandedOver::new(&load)).collect();
    assert_eq!(assign(&mut samples, 8), [12, 4], "it has enough to take for now");
    drop(many);
    assert_eq!(samples.lightest(0), 1);
}

#[test]
fn tunnels_that_are_not_counted_yet_are_shared_out() {
    let balance = Balancer(Mutex::new(samples(&[Some(0), Some(0)])));
    let assigned = [0, 0, 0, 0].map(|home| balance.tunnel(home));
    assert_eq!(assigned, [0, 1, 0, 1]);
}

#[test]
fn tunnels_go_to_the_fewest_among_those_equally_busy() {
    let choose = |busy: &[Option<u64>]| {
        let samples = samples(busy);
        for (shard, (tunnels, conns)) in samples.shards.iter().zip([(3, 0), (1, 9), (1, 2)]) {
            shard.load.tunnels.store(tunnels, Ordering::Relaxed);
            shard.load.conns.store(conns, Ordering::Relaxed);
        }
        samples.fewest_tunnels()
    };
    assert_eq!(choose(&[Some(0), Some(0), Some(0)]), Some(2));
    assert_eq!(choose(&[Some(0), Some(200), Some(900)]), Some(1));
    assert_eq!(choose(&[Some(0), Some(300), Some(900)]), Some(0));
    assert_eq!(choose(&[Some(900), Some(900), None]), Some(1));
    assert_eq!(choose(&[None, None, None]), None);
}
