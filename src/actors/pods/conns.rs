//! The actor that owns a pod's connections. The end of this actor cuts the connections; the end of no other actor
//! does.

use std::sync::Arc;

use ractor::ActorProcessingErr;

use crate::{
    dataplane::pod::conns::{PodConns, cut},
    supervisor::{Actor, ActorRef, Address, ChildSpec, Described},
};

struct Conns(Arc<PodConns>);

/// The state of the actor. The drop of the state cuts the live connections, for whatever reason the actor ends.
struct Owned(Arc<PodConns>);

/// The actor has no messages: the actor only owns the connections.
enum Msg {}

/// The actor that owns the connections of a pod.
pub(crate) fn child(conns: &Arc<PodConns>) -> ChildSpec {
    let conns = conns.clone();
    let make = move || (Conns(conns.clone()), ());
    ChildSpec::actor("conns", &Address::new("conns"), make).kind_label("conns")
}

impl Described for Msg {
    fn kind(&self) -> &'static str {
        match *self {}
    }
}

impl Actor for Conns {
    type Msg = Msg;
    type State = Owned;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Msg>, (): ()) -> Result<Owned, ActorProcessingErr> {
        if !self.0.is_draining() {
            self.0.live.reopen();
            self.0.peers.reopen();
        }
        Ok(Owned(self.0.clone()))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A connection admitted before the next start of the actor would have no owner.
        self.0.live.close_admission();
        self.0.peers.close_admission();
        let why = if self.0.is_draining() { cut::POD } else { cut::OWNER };
        self.0.live.cut_all(why);
        self.0.peers.cut_all(why);
    }
}
