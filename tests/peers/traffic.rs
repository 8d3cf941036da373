//! Connections whose bytes are checked, in both directions and to their ends.

use std::{io::Write, net::Shutdown};

use warren::lab::apps::{
    Route,
    bulk::{self, Direction},
};

use crate::support::{End, LIMIT, Lab, addr, dial, end_of};

/// Moves so many bytes from and to `to` over each of four connections.
pub(crate) fn move_bytes(lab: &Lab, pod: &str, to: &str, up: u64, down: u64) {
    let route = Route::new(lab.pod(pod).unwrap(), addr(to));
    for (direction, bytes) in [(Direction::Up, up), (Direction::Down, down)] {
        bulk::run(&route, bulk::Plan { direction, bytes, streams: 4, limit: LIMIT }).unwrap();
    }
}

/// Ends its own side of a connection to an echo server first, and still gets all that it has sent.
pub(crate) fn end_first(lab: &Lab, pod: &str, to: &str) {
    let mut stream = dial(lab, pod, to).unwrap();
    let said: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&said).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(end_of(&mut stream), End::Closed(said.clone()), "{to}");
    });
}
