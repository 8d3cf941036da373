//! Calls through an address.

use super::support::*;
use crate::supervisor::{Address, AddressError, Strategy};

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
