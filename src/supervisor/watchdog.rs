//! Finds actors that hang, and has them killed: their supervisors start them again.
//!
//! Silence is counted in looks of the watchdog, not in time: it runs on the same thread as the actors, and after the
//! machine stood still for a while all of them get their turn before the next look.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{
    door::Knocker,
    faults::tripwire,
    snapshot::{Node, NodeState},
    task::{OwnedTask, panicked, watch_panics},
};

/// The time between two looks.
/// Limit: time between two looks of the watchdog: 250 ms; past it: the watchdog looks again.
const LOOK: Duration = Duration::from_millis(250);

/// Its name among tasks.
const NAME: &str = "supervisor/watchdog";

/// Watches what is below `root`, for as long as the task lives.
pub(super) fn spawn(root: Arc<Node>) -> OwnedTask {
    let watching = async move {
        // Nobody watches the watchdog: it repairs itself.
        while let Err(message) = watch_panics(tripwire(NAME, watch(&root))).await {
            panicked(NAME, &message);
            sleep(LOOK).await;
        }
    };
    OwnedTask::spawn("supervisor/watchdogs", watching, |_| {})
}

async fn watch(root: &Node) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut knocker = None;
    loop {
        looks.tick().await;
        if knocker.is_none() {
            knocker = Knocker::new();
        }
        if !look(root, knocker.as_ref()) {
            // It has died with an actor it knocked at: another is made for the next round.
            knocker = None;
        }
    }
}

/// Looks at everything below `node`, and knocks if there is a knocker. Whether all knocks were possible.
fn look(node: &Node, knocker: Option<&Knocker>) -> bool {
    let mut all_heard = true;
    for child in node.children() {
        all_heard &= look(&child, knocker);
        let Some(limit) = child.hung_after.filter(|_| child.state() == NodeState::Up) else { continue };
        let silence = LOOK.saturating_mul(child.door.silence());
        if silence >= limit {
            let reason = format!("hung: no answer for {silence:?}");
            tracing::error!(target: "supervisor", path = %child.path, "{reason}: killed");
            child.kill_for(reason);
        } else if let Some(knocker) = knocker.filter(|_| silence.is_zero()) {
            let question = child.door.ask();
            let heard = child.knock(knocker);
            if !heard {
                child.door.settle(question);
            }
            all_heard &= heard;
        }
    }
    all_heard
}
