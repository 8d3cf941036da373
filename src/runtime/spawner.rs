//! Starts connections on a fair queue of their shard, and reports the panic of a connection.

use std::{future::Future, rc::Rc};

use super::{
    fair_queue::{Backlog, FairQueue},
    shard::{Shard, watched},
};

/// The callback of a panic: the kind of the task, and the message of the panic.
type OnPanic = Rc<dyn Fn(&'static str, &str)>;

/// Starts connections on one fair queue. A panic costs that connection only.
pub(crate) struct ConnSpawner {
    queue: FairQueue,
    on_panic: OnPanic,
}

// === impl ConnSpawner ===

impl ConnSpawner {
    /// Makes a fair queue on `shard`, part of `backlog`. `on_panic` is called for each connection that panics.
    pub(crate) fn new(
        shard: &Shard,
        backlog: Backlog,
        on_panic: impl Fn(&'static str, &str) + 'static,
    ) -> Self {
        Self { queue: shard.fair_queue(backlog), on_panic: Rc::new(on_panic) }
    }

    /// Begins a connection: runs `work` as a task of this kind on the fair queue.
    pub(crate) fn begin(&self, kind: &'static str, work: impl Future<Output = ()> + 'static) {
        let on_panic = self.on_panic.clone();
        self.queue.put(watched(kind, work, move |message| on_panic(kind, &message)));
    }
}
