//! A row: traffic, and what is done to the proxies meanwhile.

use std::time::Duration;

use super::{
    catalogue::{Act, Entry},
    extent::{Extent, longest_stall, pause},
    faults,
    fleet::{Cost, Fleet},
    outcome::Outcome,
    traffic::Traffic,
    ways::Place,
};

/// How long traffic runs before an upgrade and after it.
const STEADY: Duration = Duration::from_millis(250);
/// How long stalls are measured before an upgrade, to compare with.
const CALM: Duration = Duration::from_millis(750);
/// The least number of upgrades for bulk data.
const OFTEN: u32 = 5;

/// Runs a row. `doing` hears what is being done.
///
/// # Errors
/// The row could not be run to its end.
pub(super) fn run(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    doing: &mut dyn FnMut(&str),
) -> Result<Outcome, String> {
    let mut outcome = Outcome { name: entry.name, what: entry.what, ..Outcome::default() };
    match entry.act {
        Act::InTurn | Act::ThenNothing | Act::Often | Act::Together => {
            upgrades(fleet, entry, extent, &mut outcome, doing)?;
        }
        Act::Policy => faults::policy(fleet, entry, extent, &mut outcome)?,
        Act::KillOld(step) => faults::kill_old(fleet, entry, extent, step, &mut outcome)?,
        Act::KillNew(step) => faults::kill_new(fleet, entry, extent, step, &mut outcome)?,
        Act::Mute | Act::Frozen | Act::LinksTaken | Act::Descriptors => {
            faults::hinder(fleet, entry, extent, &mut outcome)?;
        }
    }
    if let Err(error) = fleet.settle() {
        outcome.complain(format!("after it: {error}"));
    }
    Ok(outcome)
}

fn upgrades(
    fleet: &mut Fleet,
    entry: &Entry,
    extent: &Extent,
    outcome: &mut Outcome,
    doing: &mut dyn FnMut(&str),
) -> Result<(), String> {
    let traffic = Traffic::start(fleet, &entry.mix, extent.streams)?;
    let rounds = if entry.act == Act::Often { extent.upgrades.max(OFTEN) } else { extent.upgrades };
    let mut costs: Vec<Cost> = Vec::new();
    for round in 0..rounds {
        doing(&format!("round {} of {rounds}, {} MB so far", round + 1, traffic.bytes() / 1_000_000));
        let both: &[&[Place]] =
            if entry.act == Act::Together { &[&Place::BOTH] } else { &[&[Place::One], &[Place::Two]] };
        for places in both {
            pause(STEADY);
            traffic.windows.open_calm();
            pause(CALM);
            traffic.windows.close();
            costs.extend(fleet.upgrade(places, &traffic.windows)?);
        }
    }
    pause(STEADY);
    if entry.act == Act::ThenNothing {
        doing("waiting");
        pause(extent.idle);
    }
    let flow = traffic.finish()?;
    outcome.flow(&flow, 0);
    outcome.costs(&costs);
    outcome.stall_within(longest_stall(extent));
    Ok(())
}
