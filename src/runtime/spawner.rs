//! Where connections run: on a fair queue of their shard, each watched for its panic.

use std::{future::Future, rc::Rc};

use super::{
    fair_queue::{Backlog, FairQueue},
    shard::{Shard, watched},
};

/// Hears of a panic: the kind of the task, and what the panic said.
type OnPanic = Rc<dyn Fn(&'static str, &str)>;

/// Starts connections on one fair queue. A panic costs that connection only.
pub(crate) struct ConnSpawner {
    queue: FairQueue,
    on_panic: OnPanic,
}

// === impl ConnSpawner ===

impl ConnSpawner {
    /// A fair queue of `shard`, part of `backlog`. `on_panic` hears of each connection that panics.
    pub(crate) fn new(
        shard: &Shard,
        backlog: Backlog,
        on_panic: impl Fn(&'static str, &str) + 'static,
    ) -> Self {
        Self { queue: shard.fair_queue(backlog), on_panic: Rc::new(on_panic) }
    }

    /// Begins a connection.
    pub(crate) fn begin(&self, kind: &'static str, work: impl Future<Output = ()> + 'static) {
        let on_panic = self.on_panic.clone();
        self.queue.put(watched(kind, work, move |message| on_panic(kind, &message)));
    }
}
