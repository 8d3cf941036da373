//! Attackers at work: each attack runs on a thread of its own in the attacker's namespace until it is stopped.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use tokio::task::{JoinSet, LocalSet};

use crate::lab::{
    apps::{Background, Stop, background},
    net::Namespace,
};

/// The pause of a hand after each deed, so that the attacker does not take the machine that the victim needs.
const AGAIN: Duration = Duration::from_millis(2);

/// An attack that runs; its result is the number of blows that were dealt.
pub(super) type Attack = Background<u64>;

/// Counts the blows of all hands of an attack.
#[derive(Clone, Default)]
pub(super) struct Blows(Rc<Cell<u64>>);

impl Blows {
    /// Adds `count` blows.
    pub(super) fn dealt(&self, count: u64) {
        self.0.set(self.0.get().saturating_add(count));
    }

    /// The number of blows so far.
    pub(super) fn count(&self) -> u64 {
        self.0.get()
    }
}

/// Has `count` hands do `deed` again and again from inside `from`. A deed that fails is done again, too.
pub(super) fn hands<D, F>(from: &Namespace, count: usize, deed: D) -> Result<Attack, String>
where
    D: Fn(Blows) -> F + Send + 'static,
    F: Future<Output = io::Result<()>> + 'static,
{
    let work = move |mut stop: Stop| async move {
        let (blows, deed) = (Blows::default(), Rc::new(deed));
        let all = async {
            let mut tasks = JoinSet::new();
            for _ in 0..count {
                let (blows, deed) = (blows.clone(), deed.clone());
                tasks.spawn_local(async move {
                    loop {
                        // Whatever the proxy does against the deed is its right.
                        let _ = deed(blows.clone()).await;
                        tokio::time::sleep(AGAIN).await;
                    }
                });
            }
            stop.stopped().await;
        };
        LocalSet::new().run_until(all).await;
        blows.count()
    };
    background(from, work).map_err(|error| error.to_string())
}
