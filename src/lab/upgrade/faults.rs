//! Rows in which a hand-over is broken: whoever dies, hangs or has no room, what is lost is what was with the dead one.

use std::{
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use super::{
    catalogue::{Act, Entry},
    extent::{Extent, longest_stall, pause},
    fleet::{Fleet, Member, SOON, Special, text},
    outcome::Outcome,
    traffic::Traffic,
    ways::{Place, Way},
};
use crate::{
    lab::{
        apps::{Background, background},
        node::wait,
    },
    sys::fdpass::SeqPacket,
};

/// The node whose hand-over is broken.
const BROKEN: Place = Place::One;
/// How long the proxy goes on being hindered.
const HINDERED: Duration = Duration::from_secs(3);
/// The time for which a connection stands still that is offered to a process without an answer, and some more.
const STANDS_STILL: Duration = Duration::from_millis(2_600);
/// The exit code of a proxy that dies on purpose.
const DIED: i32 = 137;
/// The open files of a proxy that has too few.
const FEW_FILES: u32 = 190;
/// Streams that are needed for the descriptors to run short.
const MANY: usize = 160;

/// A policy comes while the old process hands over. It forbids what one way carries.
pub(super) fn policy(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let forbidden = |way: Way| way.from == "client-2" && way.to == "server-1";
    let traffic = Traffic::start(fleet, &entry.mix, extent.streams)?;
    let mut old = fleet.take(BROKEN)?;
    let new = fleet.successor(&old, &Special::default())?;
    traffic.windows.open();
    old.stop()?;
    fleet.policies(Some(DENY))?;
    let ended = old.end(SOON * 3);
    traffic.windows.close();
    fleet.put(new);
    is_well(&ended?, outcome);
    pause(Duration::from_millis(500));
    let mut flow = traffic.finish()?;
    fleet.policies(None)?;
    let cut = flow.sum(forbidden);
    // New connections of that way are refused by then, which is not counted.
    flow.forgive(forbidden);
    outcome.flow(&flow, cut.streams);
    outcome.upgrades = 1;
    if cut.broken != cut.streams {
        outcome.complain(format!("{} of {} forbidden streams were cut", cut.broken, cut.streams));
    }
    Ok(())
}

const DENY: &str = "  - {name: withdrawn, action: DENY, pods: [server-1], rules: [{from: {serviceAccounts: \
                    [default/client-2]}}]}\n";

/// The old process dies at a step.
pub(super) fn kill_old(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    step: &str,
    outcome: &mut Outcome,
) -> Result<(), String> {
    fleet.replace(BROKEN, &Special { fault: Some(format!("old:{step}")), ..Special::default() })?;
    let traffic = Traffic::start(fleet, &entry.mix, extent.streams)?;
    let mut old = fleet.take(BROKEN)?;
    let new = fleet.successor(&old, &Special::default())?;
    traffic.windows.open();
    old.stop()?;
    has_died(&old.end(SOON)?, outcome);
    // The new process says how many connections it has taken once it knows that its link is gone.
    let taken = told_taken(&new);
    traffic.windows.close();
    let taken = taken?;
    fleet.put(new);
    counted(fleet, traffic, taken, outcome)?;
    expect(taken, &at_old(step), entry, outcome);
    Ok(())
}

/// The new process dies at a step, and a third one takes what is left.
pub(super) fn kill_new(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    step: &str,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let traffic = Traffic::start(fleet, &entry.mix, extent.streams)?;
    let mut old = fleet.take(BROKEN)?;
    let mut new =
        fleet.successor(&old, &Special { fault: Some(format!("new:{step}")), ..Special::default() })?;
    traffic.windows.open();
    old.stop()?;
    has_died(&new.end(SOON)?, outcome);
    drop(new);
    let third = fleet.successor(&old, &Special::default())?;
    is_well(&old.end(SOON * 3)?, outcome);
    traffic.windows.close();
    let (given, taken) = (old.logged("given"), told_taken(&third)?);
    fleet.put(third);
    counted(fleet, traffic, taken, outcome)?;
    expect(given.saturating_sub(taken), &at_new(step), entry, outcome);
    Ok(())
}

/// What a proxy says that it has taken, once its link has ended.
fn told_taken(new: &Member) -> Result<u64, String> {
    wait(SOON, || match new.process.log_text().contains("\"taken\"") {
        true => Ok(new.logged("taken")),
        false => Err(format!("the proxy does not say what it has taken: {}", new.last_words())),
    })
}

/// Ends the traffic, all of whose streams through the broken node must be lost but those that were `taken`.
fn counted(fleet: &Fleet, traffic: Traffic, taken: u64, outcome: &mut Outcome) -> Result<(), String> {
    fleet.settle()?;
    let flow = traffic.finish()?;
    let (here, elsewhere) = (flow.sum(through), flow.sum(|way| !through(way)));
    outcome.flow(&flow, here.streams.saturating_sub(taken));
    outcome.upgrades = 1;
    if elsewhere.broken > 0 {
        outcome.complain(format!("{} streams of the other node were lost", elsewhere.broken));
    }
    Ok(())
}

fn through(way: Way) -> bool {
    way.is_through(BROKEN)
}

/// The number of offers that are on their way together.
const TOGETHER: u64 = 8;

/// What the new process has at least and at most when the old one dies at this step. It has what it could answer.
fn at_old(step: &str) -> [u64; 2] {
    match number(step) {
        ("offered", number) => [0, number],
        ("answered", number) => [number, number + TOGETHER],
        (_, number) => [0, number - 1],
    }
}

/// What the new process has at least and at most when it dies at this step. It answers in order.
fn at_new(step: &str) -> [u64; 2] {
    match number(step) {
        ("answered" | "begun", number) => [number; 2],
        ("received", number) => [0, number - 1],
        (_, number) => [number - 1; 2],
    }
}

/// A step, and which time it is.
fn number(step: &str) -> (&str, u64) {
    let (name, number) = step.split_once('@').unwrap_or((step, "1"));
    (name, number.parse().unwrap_or(1))
}

/// Holds the number of connections that one process had to what it may be. A tunnel counts with all its streams.
fn expect(had: u64, [least, most]: &[u64; 2], entry: &Entry, outcome: &mut Outcome) {
    let holds = if entry.mix.tunnels {
        had >= *least && (*most > 0 || had == 0)
    } else {
        (*least..=*most).contains(&had)
    };
    if !holds {
        outcome.complain(format!("the new process had {had} connections in the place of {least} to {most}"));
    }
}

/// The hand-over is hindered for a while, and costs nothing but time.
pub(super) fn hinder(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let streams = if entry.act == Act::Descriptors { extent.streams.max(MANY) } else { extent.streams };
    let traffic = Traffic::start(fleet, &entry.mix, streams)?;
    let mut old = fleet.take(BROKEN)?;
    let special = match entry.act {
        Act::Mute => Special { fault: Some("new:received@5:hang".to_owned()), ..Special::default() },
        Act::Descriptors => Special { files: Some(FEW_FILES), ..Special::default() },
        _ => Special::default(),
    };
    let mut new = fleet.successor(&old, &special)?;
    traffic.windows.open();
    match entry.act {
        Act::Frozen => {
            new.process.signal(libc::SIGSTOP).map_err(text)?;
            old.stop()?;
            pause(HINDERED);
            new.process.signal(libc::SIGCONT).map_err(text)?;
        }
        Act::LinksTaken => {
            let taken = take_links(fleet)?;
            old.stop()?;
            pause(HINDERED);
            stays(&mut old, outcome);
            drop(taken);
        }
        Act::Descriptors => {
            old.stop()?;
            pause(HINDERED);
            stays(&mut old, outcome);
            let third = fleet.successor(&old, &Special::default())?;
            new.stop()?;
            is_well(&new.end(SOON * 3)?, outcome);
            new = third;
        }
        _ => old.stop()?,
    }
    is_well(&old.end(SOON * 3)?, outcome);
    traffic.windows.close();
    fleet.put(new);
    pause(Duration::from_millis(250));
    outcome.flow(&traffic.finish()?, 0);
    outcome.upgrades = 1;
    outcome.stall_within(STANDS_STILL + longest_stall(extent));
    Ok(())
}

/// Has others hold all four links to the proxy of the broken node.
fn take_links(fleet: &Fleet) -> Result<Background<()>, String> {
    let path: PathBuf = fleet.socket(BROKEN);
    let hold = move |mut stop: crate::lab::apps::Stop| async move {
        let hold = || hold_link(&path);
        tokio::select! {
            () = stop.stopped() => {}
            _ = async { tokio::join!(hold(), hold(), hold(), hold()) } => {}
        }
    };
    let holding = background(fleet.pod("bare")?, hold).map_err(text)?;
    pause(Duration::from_millis(100));
    Ok(holding)
}

/// A link that lasts for less was not had, but turned away.
const HELD: Duration = Duration::from_millis(500);

/// Holds a link and says nothing, as often as the proxy ends it.
async fn hold_link(path: &std::path::Path) {
    loop {
        let begun = Instant::now();
        if let Ok(link) = SeqPacket::connect(path) {
            // The proxy says nothing before it has heard something, so this is the end.
            let _ = link.recv().await;
        }
        // A link that was held is taken again before anybody else can take it.
        if begun.elapsed() < HELD {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The process must still be there, with what nobody has taken.
fn stays(old: &mut Member, outcome: &mut Outcome) {
    if !matches!(old.process.status(), Ok(None)) {
        outcome.complain("the old process has ended, though nobody could take all it had".to_owned());
    }
}

fn has_died(status: &ExitStatus, outcome: &mut Outcome) {
    if status.code() != Some(DIED) {
        outcome.complain(format!("the process that had to die ended: {status}"));
    }
}

fn is_well(status: &ExitStatus, outcome: &mut Outcome) {
    if !status.success() {
        outcome.complain(format!("the old process ended: {status}"));
    }
}
