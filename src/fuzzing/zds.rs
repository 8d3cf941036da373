//! The hand-over: packets of istio-cni with any descriptors, on a real socket, and the session that answers them.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{input::Input, wire::in_time};
use crate::{
    protocols::zds::{
        NetnsId, PodInfo,
        codec::{
            Answer, Request, ZDS_PACKET_BYTES, decode_answer, decode_request, encode_answer, encode_request,
        },
        session::{Ask, Counts, Effect, Event, Netns, Session, Then, ZDS_ANSWER_WITHIN},
    },
    sys::fdpass::SeqPacket,
};

/// What a pod's supervisor does meanwhile, by the number of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Start(u64),
    Stop(u64),
}

/// A session, and the world around it.
struct Model {
    session: Session<u32>,
    now: Instant,
    /// The operation of each pod.
    work: HashMap<Arc<str>, Work>,
    last_op: u64,
    /// Since when a packet waits for its answer.
    asked: Option<Instant>,
    over: bool,
}

/// Packets, descriptors, and the ends of starts and stops, in any order.
pub fn zds(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model {
        session: Session::new([], Counts::default()),
        now: Instant::now(),
        work: HashMap::new(),
        last_op: 0,
        asked: None,
        over: false,
    };
    model.on(Event::Connected);
    while !input.is_empty() && !model.over {
        match input.below(8) {
            0..4 if model.asked.is_none() => {
                let packet = packet(&mut input);
                let ask = ask(&mut input, &packet);
                model.asked = Some(model.now);
                model.on(Event::Asked(ask));
            }
            4 => {
                model.asked = None;
                model.on(Event::Disconnected);
                model.on(Event::Connected);
            }
            5 => model.pass(Duration::from_millis(input.u16().into())),
            _ => model.finish(&mut input),
        }
    }
    if model.over {
        return;
    }
    // Nothing more happens: the answer comes in time all the same.
    model.pass(ZDS_ANSWER_WITHIN);
    assert_eq!(model.asked, None, "a packet is not answered");
}

fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let uid = ["a", "b", "c", ""][input.below(4)].to_owned();
    let info = PodInfo { name: "pod".into(), namespace: "ns1".into(), service_account: "sa".into() };
    let request = match input.below(6) {
        0 | 1 => Request::Add { uid, info: (input.below(16) > 0).then_some(info) },
        2 => Request::Keep { uid },
        3 => Request::Del { uid },
        4 => Request::SnapshotSent,
        _ => return input.bytes(1200).to_vec(),
    };
    let packet = encode_request(&request);
    assert_eq!(decode_request(&packet).as_ref(), Ok(&request));
    packet
}

/// What the session gets of a packet that comes over a socket, with none or one real descriptor or with any number of
/// others.
fn ask(input: &mut Input<'_>, packet: &[u8]) -> Ask<u32> {
    let netns = |n: u8| Netns { id: NetnsId { dev: 4, ino: n.into() }, handle: n.into() };
    let count = input.below(4);
    let number = input.byte() % 4;
    if packet.is_empty() || packet.len() > ZDS_PACKET_BYTES || input.below(4) > 0 {
        if let Ok(request) = decode_request(packet) {
            assert_eq!(decode_request(&encode_request(&request)), Ok(request));
        }
        return Ask::decode(packet, (0..count).map(|_| netns(number)).collect());
    }
    let got = in_time(async {
        let (agent, proxy) = SeqPacket::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        agent.send(packet, (count == 1).then(|| null.as_fd())).await.unwrap();
        proxy.recv().await.unwrap().unwrap()
    });
    assert_eq!((got.bytes.as_slice(), got.fds.len()), (packet, usize::from(count == 1)));
    Ask::decode(&got.bytes, got.fds.iter().map(|_| netns(number)).collect())
}

// === impl Model ===

impl Model {
    fn on(&mut self, event: Event<u32>) {
        let effects = self.session.on(self.now, event);
        for effect in effects {
            match effect {
                Effect::Start(op, pod) => {
                    assert!(op > self.last_op && !pod.uid.is_empty());
                    self.last_op = op;
                    let before = self.work.insert(pod.uid, Work::Start(op));
                    assert_eq!(before, None, "a pod has two operations");
                }
                Effect::Stop(op, uid) => {
                    assert!(op > self.last_op);
                    self.last_op = op;
                    let before = self.work.insert(uid, Work::Stop(op));
                    assert!(!matches!(before, Some(Work::Stop(_))), "a pod is stopped twice");
                }
                Effect::Answer(answer, then) => self.answered(&answer, then),
            }
        }
        if let Some(asked) = self.asked {
            assert!(self.now < asked + ZDS_ANSWER_WITHIN, "a packet is answered late");
        }
        let status = self.session.status();
        assert_eq!(status.counts.pending as usize, status.pending.len());
        assert!(!status.ready || status.pending.is_empty());
        assert_eq!(status.ready, status.detail().is_none());
        assert!(status.counts.stopped + status.counts.active <= status.counts.started);
    }

    fn answered(&mut self, answer: &Answer, then: Then) {
        assert!(self.asked.take().is_some(), "an answer without a question");
        let packet = encode_answer(answer);
        assert!(packet.len() < ZDS_PACKET_BYTES);
        let again = decode_answer(&packet).unwrap();
        assert_eq!(again == Answer::Done, *answer == Answer::Done);
        self.over = matches!(then, Then::Exit(_));
        if then == Then::Disconnect {
            self.on(Event::Disconnected);
            self.on(Event::Connected);
        }
    }

    /// Lets time pass, and wakes the session when it wants to be.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..100 {
            let Some(wake) = self.session.next_wake().filter(|wake| *wake <= until) else { break };
            self.now = self.now.max(wake);
            self.on(Event::Tick);
        }
        assert!(self.session.next_wake().is_none_or(|wake| wake > until), "the session never sleeps");
        self.now = until;
        self.on(Event::Tick);
    }

    /// Ends the operation of a pod.
    fn finish(&mut self, input: &mut Input<'_>) {
        let mut busy: Vec<_> = self.work.keys().cloned().collect();
        busy.sort();
        let Some(uid) = busy.get(input.below(busy.len())).cloned() else { return };
        match self.work.remove(&uid) {
            Some(Work::Start(op)) => {
                let result = if input.flip() { Ok(()) } else { Err(input.text(1200)) };
                self.on(Event::PodStarted(op, uid, result));
            }
            Some(Work::Stop(op)) => self.on(Event::PodStopped(op, uid)),
            None => {}
        }
    }
}
