//! The relay against a simple model, under every order of what two peers can do.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, task::Waker};

use super::*;

/// The number of events of a run in which the relay has its turn after each event that wakes it.
const EVENTS: u32 = 5;
/// The number of events of a run in which the relay may have its turn late, after any number of events.
const LATE_EVENTS: u32 = 4;

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Sends two bytes.
    Send,
    /// Ends its sending direction.
    Finish,
    /// Resets its connection.
    Reset,
    /// Takes three more bytes. A peer that does not is one that has stopped.
    Take,
}

const DEEDS: [Deed; 4] = [Deed::Send, Deed::Finish, Deed::Reset, Deed::Take];

/// How a side learns that its peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By reading, writing, or a look.
    Tcp,
    /// By a wake-up at once.
    Stream,
}

/// A peer, and what the relay waits for from it.
#[derive(Debug)]
struct Peer {
    kind: Kind,
    sent: usize,
    unread: VecDeque<u8>,
    finished: bool,
    reset: bool,
    room: usize,
    got: Vec<u8>,
    got_end: bool,
    reads: bool,
    writes: bool,
    watches: bool,
    told_of_loss: bool,
}

#[derive(Clone, Debug)]
struct Scripted(Rc<RefCell<Peer>>);

impl Peer {
    fn scripted(kind: Kind) -> Scripted {
        Scripted(Rc::new(RefCell::new(Self {
            kind,
            sent: 0,
            unread: VecDeque::new(),
            finished: false,
            reset: false,
            room: 0,
            got: Vec::new(),
            got_end: false,
            reads: false,
            writes: false,
            watches: false,
            told_of_loss: false,
        })))
    }

    /// Does a deed. The result is whether that wakes the relay.
    fn does(&mut self, deed: Deed) -> bool {
        match deed {
            _ if self.reset => false,
            Deed::Send | Deed::Finish if self.finished => false,
            Deed::Send => {
                for _ in 0..2 {
                    self.unread.push_back(self.sent as u8);
                    self.sent += 1;
                }
                self.reads
            }
            Deed::Finish => {
                self.finished = true;
                self.reads
            }
            Deed::Reset => {
                self.reset = true;
                self.reads || self.writes || (self.kind == Kind::Stream && self.watches)
            }
            Deed::Take => {
                self.room += 3;
                self.writes
            }
        }
    }
}

impl Side for Scripted {
    fn poll_chunk(&mut self, _: &mut Context<'_>, max: usize, _: &Buffers) -> Poll<Result<Bytes, End>> {
        let mut peer = self.0.borrow_mut();
        let n = max.min(peer.unread.len());
        if n > 0 {
            return Poll::Ready(Ok(peer.unread.drain(..n).collect()));
        }
        if peer.reset {
            return Poll::Ready(Err(End::Gone(None)));
        }
        if peer.finished {
            return Poll::Ready(Err(End::Finished));
        }
        peer.reads = true;
        Poll::Pending
    }

    fn ended(&mut self, _: &mut Context<'_>) -> Option<End> {
        let peer = self.0.borrow();
        (peer.unread.is_empty() && peer.finished && !peer.reset).then_some(End::Finished)
    }

    fn poll_room(&mut self, _: &mut Context<'_>, want: usize) -> Poll<Result<usize, Option<RelayError>>> {
        let mut peer = self.0.borrow_mut();
        if peer.kind == Kind::Tcp {
            return Poll::Ready(Ok(want));
        }
        if peer.reset {
            return Poll::Ready(Err(None));
        }
        if peer.room == 0 {
            peer.writes = true;
            return Poll::Pending;
        }
        Poll::Ready(Ok(want.min(peer.room)))
    }

    fn poll_write(
        &mut self,
        _: &mut Context<'_>,
        chunk: &mut Bytes,
        _: bool,
    ) -> Poll<Result<(), Option<RelayError>>> {
        let mut peer = self.0.borrow_mut();
        if peer.reset {
            return Poll::Ready(Err(None));
        }
        let taken = chunk.split_to(peer.room.min(chunk.len()));
        peer.room -= taken.len();
        peer.got.extend_from_slice(&taken);
        if chunk.is_empty() {
            return Poll::Ready(Ok(()));
        }
        peer.writes = true;
        Poll::Pending
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        let mut peer = self.0.borrow_mut();
        peer.watches = true;
        if peer.kind == Kind::Stream && peer.reset { Poll::Ready(()) } else { Poll::Pending }
    }

    fn check_gone(&mut self) -> bool {
        self.0.borrow().reset
    }

    fn poll_idle(&mut self, _: &mut Context<'_>) -> Poll<Option<RelayError>> {
        let mut peer = self.0.borrow_mut();
        // A stream's sending half tells of a reset only once the receiving half has ended.
        let tells = peer.kind == Kind::Stream && peer.finished && peer.unread.is_empty();
        if tells && peer.reset {
            return Poll::Ready(None);
        }
        peer.watches |= tells;
        Poll::Pending
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<()> {
        let mut peer = self.0.borrow_mut();
        peer.got_end = !peer.reset;
        Poll::Ready(())
    }

    fn reset_on_drop(&mut self) {
        self.0.borrow_mut().told_of_loss = true;
    }
}

/// A run of the relay.
struct Run<'a> {
    a: Scripted,
    b: Scripted,
    relay: Relay<'a, Scripted, Scripted, Counts>,
    woken: bool,
    done: bool,
}

impl Run<'_> {
    fn poll(&mut self) {
        for side in [&self.a, &self.b] {
            let mut peer = side.0.borrow_mut();
            (peer.reads, peer.writes, peer.watches) = (false, false, false);
        }
        let mut cx = Context::from_waker(Waker::noop());
        self.done = self.done || Pin::new(&mut self.relay).poll(&mut cx).is_ready();
    }

    fn step(&mut self, of_a: bool, deed: Deed) {
        let side = if of_a { &self.a } else { &self.b };
        self.woken |= side.0.borrow_mut().does(deed);
    }

    fn turn(&mut self) {
        if std::mem::take(&mut self.woken) && !self.done {
            self.poll();
        }
    }

    /// The tick of a clock, as far as the relay has asked for a clock.
    fn tick(&mut self) {
        if !self.done && self.relay.attention() == Attention::Check && self.relay.check_gone() {
            self.poll();
        }
    }
}

#[test]
fn whatever_two_peers_do_bytes_arrive_and_a_loss_is_seen() {
    let buffers = Buffers::default();
    let kinds = [Kind::Tcp, Kind::Stream];
    for (first, second) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        for run in 0..8u32.pow(EVENTS) {
            holds((first, second), &events(run, EVENTS), 0, &buffers);
        }
        for run in 0..8u32.pow(LATE_EVENTS) {
            for late in 1..2u32.pow(LATE_EVENTS - 1) {
                holds((first, second), &events(run, LATE_EVENTS), late, &buffers);
            }
        }
    }
}

/// The events of the number `run`.
fn events(run: u32, count: u32) -> Vec<(bool, Deed)> {
    let each = (0..count).map(|i| (run / 8u32.pow(i)) % 8);
    each.map(|event| (event < 4, DEEDS[event as usize % 4])).collect()
}

/// `late` has a bit for each event but the last: whether the next event comes before the relay has its turn.
fn holds((first, second): (Kind, Kind), events: &[(bool, Deed)], late: u32, buffers: &Buffers) {
    let (a, b, counts) = (Peer::scripted(first), Peer::scripted(second), Counts::default());
    let relay = relay(a.clone(), b.clone(), &counts, buffers);
    let mut run = Run { a, b, relay, woken: false, done: false };
    run.poll();
    for (i, &(of_a, deed)) in events.iter().enumerate() {
        run.step(of_a, deed);
        if late >> i & 1 == 1 {
            continue;
        }
        run.turn();
        run.tick();
        let what = || format!("{first:?} {second:?} {events:?} late {late:b} at {deed:?}");
        let (a, b) = (run.a.0.borrow(), run.b.0.borrow());
        assert_eq!((counts.0.get(), counts.1.get()), (b.got.len(), a.got.len()), "{}", what());
        for (from, to) in [(&a, &b), (&b, &a)] {
            // What arrives is what was sent, in order.
            assert!(to.got.iter().enumerate().all(|(i, byte)| *byte as usize == i), "{}", what());
            if a.reset || b.reset {
                // What a lost peer had sent goes on as far as the other peer takes it.
                let all = to.reset || !from.reset || run.done || to.room == 0;
                assert!(all, "what a lost peer had sent is kept back: {}", what());
                continue;
            }
            assert!(to.got.len() == from.sent || to.room == 0, "bytes are kept back: {}", what());
            // A stream without room takes no end either.
            if to.kind == Kind::Tcp || to.room > 0 {
                assert_eq!(to.got_end, from.finished && to.got.len() == from.sent, "{}", what());
            }
        }
        if a.reset || b.reset {
            // A loss is known in the same turn, and somebody bounds what is left.
            assert!(run.done || run.relay.attention() == Attention::Deadline, "{}", what());
        } else {
            assert_eq!(run.done, a.got_end && b.got_end, "{}", what());
        }
    }
    if run.done {
        return;
    }
    let (a_gone, b_gone) = (run.a.0.borrow().reset, run.b.0.borrow().reset);
    if a_gone || b_gone {
        run.relay.give_up();
        let (a, b) = (run.a.0.borrow(), run.b.0.borrow());
        assert!((a_gone && b.told_of_loss) || (b_gone && a.told_of_loss), "{events:?}");
    }
}
