//! The keepers: an actor a shard, which starts the shard's thread again when the thread has ended.

use ractor::ActorProcessingErr;

use super::HUNG_AFTER;
use crate::{
    runtime::shard::Shards,
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described, OwnedTask, TaskExit},
};

/// The actor that keeps shard `index` alive. The thread outlives it: losing the keeper loses no connection.
pub(crate) fn child(shards: &Shards, index: usize) -> ChildSpec {
    let shards = shards.clone();
    let make = move || (Keeper { shards: shards.clone(), index }, ());
    let id = format!("shard-{index}");
    ChildSpec::actor(id.as_str(), &Address::new(&id), make).kind_label("shard").hung_after(HUNG_AFTER)
}

struct Keeper {
    shards: Shards,
    index: usize,
}

/// Messages of a keeper.
enum KeeperMsg {
    /// The thread has ended. Sent once by the keeper's own watch.
    ThreadEnded,
    /// The watch has panicked. Sent once in its place.
    WatchLost,
}

impl Described for KeeperMsg {
    fn kind(&self) -> &'static str {
        match self {
            Self::ThreadEnded => "thread-ended",
            Self::WatchLost => "watch-lost",
        }
    }
}

impl Actor for Keeper {
    type Msg = KeeperMsg;
    type State = OwnedTask;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<KeeperMsg>, (): ()) -> Result<OwnedTask, ActorProcessingErr> {
        let mut alive = self.shards.alive(self.index).ok_or("there is no such shard")?;
        if !*alive.borrow_and_update() {
            self.shards.serve(self.index)?;
            alive.borrow_and_update();
        }
        let told = myself.clone();
        let watching = async move {
            // The sender lives in the slot, as long as the shards do.
            let _ = alive.wait_for(|alive| !alive).await;
            let _ = myself.cast(KeeperMsg::ThreadEnded);
        };
        let on_exit = move |exit| {
            if let TaskExit::Panicked { .. } = exit {
                let _ = told.cast(KeeperMsg::WatchLost);
            }
        };
        Ok(OwnedTask::spawn(format!("shard/watch/{}", self.index), watching, on_exit))
    }

    async fn handle(
        &self,
        _: ActorRef<KeeperMsg>,
        message: KeeperMsg,
        _: &mut OwnedTask,
    ) -> Result<(), ActorProcessingErr> {
        let what = match message {
            KeeperMsg::ThreadEnded => "thread",
            KeeperMsg::WatchLost => "watch",
        };
        Err(format!("the {what} of shard {} ended", self.index).into())
    }

    async fn post_stop(&self, _: ActorRef<KeeperMsg>, _: &mut OwnedTask) -> Result<(), ActorProcessingErr> {
        self.shards.retire(self.index);
        Ok(())
    }
}
