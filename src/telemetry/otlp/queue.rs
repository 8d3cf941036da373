//! A bounded queue for spans and one for log records, and the exporter that empties it.
//!
//! Adding to a queue never waits. Past the bound an item is dropped and counted. A dead, slow or mute collector
//! therefore costs only telemetry.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use super::{
    collector::Batch,
    delivery::{Counts, Delivery, ExportFailed},
};
use crate::protocols::config::ExportQueue;

/// The size of the waiting items, for items that report a size.
///
/// Limit: bytes of log records that wait for the collector: 16 MiB; past it: the record is dropped, and counted.
const EXPORT_QUEUE_BYTES: usize = 16 << 20;
/// The size after which a request takes no further item; collectors take 4 MiB.
///
/// Limit: bytes of log records in one request: 2 MiB and one record; past it: another request is made.
const EXPORT_REQUEST_BYTES: usize = 2 << 20;

/// A span or a log record, which waits in a queue and is sent in a batch.
pub(in crate::telemetry) trait Item: Send + Sized + 'static {
    /// The size that the item counts for, in bytes.
    fn bytes(&self) -> usize;
}

/// The producers' side of a queue.
#[derive(Debug)]
pub(in crate::telemetry) struct Queue<T> {
    items: mpsc::Sender<T>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Notified when the queue is half full.
    half_full: Notify,
    /// The size of the waiting items, in bytes.
    bytes: AtomicUsize,
    counts: Counts,
}

/// The exporter's side of a queue.
pub(in crate::telemetry) struct QueueExporter<T>
where
    Vec<T>: Batch,
{
    items: mpsc::Receiver<T>,
    shared: Arc<Shared>,
    limits: ExportQueue,
    delivery: Delivery<Vec<T>>,
}

/// Makes a queue with the bounds of `limits`, and the exporter that empties it.
pub(in crate::telemetry) fn queue<T: Item>(
    limits: ExportQueue,
    delivery: Delivery<Vec<T>>,
) -> (Queue<T>, QueueExporter<T>)
where
    Vec<T>: Batch,
{
    let (queue, items) = mpsc::channel(limits.items);
    let counts = delivery.counts().clone();
    let shared = Arc::new(Shared { half_full: Notify::new(), bytes: AtomicUsize::new(0), counts });
    (Queue { items: queue, shared: shared.clone() }, QueueExporter { items, shared, limits, delivery })
}

// === impl Queue ===

impl<T: Item> Queue<T> {
    /// Adds an item, or drops and counts it. The call never waits.
    pub(in crate::telemetry) fn push(&self, item: T) {
        let shared = &*self.shared;
        let bytes = item.bytes();
        let waiting = shared.bytes.fetch_add(bytes, Relaxed) + bytes;
        if waiting > EXPORT_QUEUE_BYTES || self.items.try_send(item).is_err() {
            shared.bytes.fetch_sub(bytes, Relaxed);
            return shared.counts.dropped("queue full", 1);
        }
        if self.items.capacity() <= self.items.max_capacity() / 2 || waiting > EXPORT_QUEUE_BYTES / 2 {
            shared.half_full.notify_one();
        }
    }
}

// === impl QueueExporter ===

impl<T: Item> QueueExporter<T>
where
    Vec<T>: Batch,
{
    /// Exports until the sender of `closing` is dropped, and then exports the remaining items.
    pub(in crate::telemetry) async fn run(mut self, mut closing: watch::Receiver<()>) {
        let shared = self.shared.clone();
        loop {
            let last = tokio::select! {
                biased;
                _ = closing.changed() => true,
                () = shared.half_full.notified() => false,
                () = sleep(self.limits.delay) => false,
            };
            while let Some(batch) = self.batch() {
                // An order to close that comes during the export is kept.
                self.export(batch).await;
            }
            if last {
                return;
            }
        }
    }

    fn batch(&mut self) -> Option<Vec<T>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < self.limits.batch && bytes < EXPORT_REQUEST_BYTES {
            let Ok(item) = self.items.try_recv() else { break };
            bytes += item.bytes();
            batch.push(item);
        }
        self.shared.bytes.fetch_sub(bytes, Relaxed);
        (!batch.is_empty()).then_some(batch)
    }

    async fn export(&mut self, batch: Vec<T>) {
        let items = batch.len() as u64;
        let counts = &self.shared.counts;
        match self.delivery.send(batch).await {
            Ok(rejected) => {
                let rejected = rejected.min(items);
                counts.exported(items - rejected);
                counts.dropped("rejected", rejected);
            }
            Err(ExportFailed) => counts.dropped("export failed", items),
        }
    }
}
