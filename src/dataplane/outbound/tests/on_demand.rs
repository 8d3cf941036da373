//! Tests of destinations that the control plane is asked for.

use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::{
    dataplane::{on_demand::Directory, testing::run_on_demand},
    protocols::xds::{DemandError, Demanded},
};

/// A control plane that answers when the test says so.
#[derive(Default)]
struct Plane {
    asked: Mutex<Vec<String>>,
    answered: watch::Sender<bool>,
    full: bool,
}

impl Directory for Plane {
    fn demand(&self, name: &str) -> Result<Demanded, DemandError> {
        if self.full {
            return Err(DemandError::Full(name.to_owned()));
        }
        let mut asked = self.asked.lock();
        if asked.iter().any(|held| held == name) && *self.answered.borrow() {
            return Ok(Demanded::Answered);
        }
        asked.push(name.to_owned());
        Ok(Demanded::Asked(self.answered.subscribe()))
    }
}

impl Plane {
    async fn asked(&self, count: usize) -> Vec<String> {
        while self.asked.lock().len() < count {
            tokio::task::yield_now().await;
        }
        self.asked.lock().clone()
    }
}

fn lone() -> TestMesh {
    TestMesh::new().with(pod("client", CLIENT_IP).hbone().local())
}

#[test]
fn a_connection_to_an_unknown_address_waits_for_the_answer_and_goes_where_it_says() {
    let plane = Arc::new(Plane::default());
    run_on_demand(lone(), plane.clone(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:8080");
        assert_eq!(plane.asked(1).await, ["/10.0.0.2"]);
        assert!(pod.peers.dialled().is_empty() && pod.network.dialled().is_empty());
        bed.push(crate::protocols::mesh::fixtures::pod("server", "10.0.0.2").hbone());
        plane.answered.send_replace(true);
        pod.peers.asked("10.0.0.2:15008").await;
        conn.app.finish().await;
        let mut second = bed.connect(&pod, CLIENT, "10.0.0.2:8080");
        pod.peers.asked("10.0.0.2:15008").await;
        assert_eq!(plane.asked.lock().len(), 1, "a known address is not asked for");
        second.app.finish().await;
    });
}

#[test]
fn an_address_that_is_none_of_the_mesh_is_passed_through_after_the_answer() {
    let plane = Arc::new(Plane::default());
    run_on_demand(lone(), plane.clone(), async |bed| {
        let pod = client(bed);
        pod.network.plan("192.0.2.7:443", Plan::Accept);
        bed.connect(&pod, CLIENT, "192.0.2.7:443");
        assert_eq!(plane.asked(1).await, ["/192.0.2.7"]);
        plane.answered.send_replace(true);
        pod.network.accepted("192.0.2.7:443").await;
    });
}

#[test]
fn without_an_answer_the_connection_ends_in_time_and_says_what_it_waited_for() {
    let plane = Arc::new(Plane::default());
    run_on_demand(lone(), plane.clone(), async |bed| {
        let pod = client(bed);
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:8080");
        conn.done().await;
        let why = "timed out waiting for the control plane to answer for /10.0.0.2";
        assert_eq!(bed.lines(), [format!("outbound 10.0.0.2:8080 refused: {why}")]);
        assert!(pod.network.dialled().is_empty());
    });
}

#[test]
fn where_no_more_is_asked_the_connection_is_refused_at_once() {
    let plane = Arc::new(Plane { full: true, ..Plane::default() });
    run_on_demand(lone(), plane, async |bed| {
        let mut conn = bed.connect(&client(bed), CLIENT, "10.0.0.2:8080");
        conn.done().await;
        let why = "address not known: \"/10.0.0.2\" is not asked for: too many names are";
        assert_eq!(bed.lines(), [format!("outbound 10.0.0.2:8080 refused: {why}")]);
    });
}

#[test]
fn connections_of_a_pod_that_wait_for_answers_are_bounded() {
    let plane = Arc::new(Plane::default());
    run_on_demand(lone(), plane.clone(), async |bed| {
        let pod = client(bed);
        let waiting: Vec<_> = (0..1024).map(|_| bed.connect(&pod, CLIENT, "10.0.0.2:8080")).collect();
        plane.asked(1024).await;
        let mut conn = bed.connect(&pod, CLIENT, "10.0.0.2:8080");
        conn.done().await;
        let why = "address not known: 1024 connections of the pod wait for addresses already";
        assert_eq!(bed.lines(), [format!("outbound 10.0.0.2:8080 refused: {why}")]);
        plane.answered.send_replace(true);
        drop(waiting);
    });
}
