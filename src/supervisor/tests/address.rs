//! Calls through an address.

use tokio::sync::oneshot;

use super::support::*;
use crate::supervisor::{Address, AddressError, Strategy, actor_ref::Gone};

#[tokio::test(start_paused = true)]
async fn a_call_says_whether_its_message_was_delivered() {
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let name = || a.address.name().clone();
    assert_eq!(a.address.call(SECOND, Msg::Ping).await, Ok(1));
    assert_eq!(
        a.address.call(SECOND, Msg::Keep).await,
        Err(AddressError::TimedOut { name: name(), after: SECOND })
    );
    assert_eq!(a.address.call(SECOND, Msg::DieWith).await, Err(AddressError::Lost { name: name() }));
    assert_eq!(a.address.call(SECOND / 2, Msg::Ping).await, Err(AddressError::Down { name: name() }));
    assert_eq!(a.address.call(SECOND, Msg::Ping).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn an_address_with_nobody_behind_it_is_down_now_and_reached_once_somebody_is() {
    let world = World::default();
    let a = world.worker("a");
    assert_eq!(a.address.actor_id(), None);
    assert!(matches!(a.address.cast(Msg::Fail), Err(AddressError::Down { .. })));
    let early = a.address.call(SECOND, Msg::Ping);
    let (tree, answer) = tokio::join!(world.start(root(Strategy::OneForOne).child(a.spec())), early);
    assert_eq!(answer, Ok(1));
    tree.stop().await;
    assert!(matches!(a.address.cast(Msg::Fail), Err(AddressError::Down { .. })));
}

#[tokio::test(start_paused = true)]
async fn clones_of_an_address_share_what_is_behind_it() {
    let address = Address::<Msg>::new("a");
    let clone = address.clone();
    let world = World::default();
    let a = world.worker("a");
    let _tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    address.publish(a.address.current().expect("is up"));
    assert_eq!(clone.call(SECOND, Msg::Ping).await, Ok(1));
    assert_eq!(clone.actor_id(), a.address.actor_id());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_at_an_address_whose_actor_has_ended_for_good() {
    let world = World::default();
    let a = world.worker("a");
    let down = Err(AddressError::Down { name: a.address.name().clone() });
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    a.address.retire();
    assert_eq!(a.address.call(SECOND, Msg::Ping).await, Ok(1), "it has not ended yet");
    tree.stop().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(a.address.call(SECOND, Msg::Ping).await, down);
    let early = Address::<Msg>::new("a");
    let (waited, ()) = tokio::join!(early.call(SECOND, Msg::Ping), async { early.retire() });
    assert_eq!(waited, down);
    assert!(begun.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_reply_hears_of_the_end_of_the_actor_though_the_port_is_left_somewhere() {
    let world = World::default();
    let a = world.worker("a");
    let tree = world.start(root(Strategy::OneForOne).child(a.spec())).await;
    let actor = a.address.current().expect("is up");
    let (left, reply) = oneshot::channel::<u32>();
    let (answered, ()) = tokio::join!(actor.answer(reply), tree.stop());
    assert_eq!(answered, Err(Gone));
    let (passed_on, reply) = oneshot::channel();
    passed_on.send(7).expect("is waited for");
    assert_eq!(actor.answer(reply).await, Ok(7));
    drop(left);
}
