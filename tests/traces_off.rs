//! Without a collector. In a process of its own: while another subscriber is there, every span is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::{
    io::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use warren::{
    protocols::config::LogFormat,
    telemetry::{
        log::Logging,
        trace::span::{self, Connection, SpanKind, Spans, Step},
    },
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_traces_nobody_asks_for_their_spans() {
    let log = Log::default();
    let (dispatch, logging) = Logging::to(log.clone(), LogFormat::Plain, "debug".parse().unwrap()).unwrap();
    tracing::dispatcher::set_global_default(dispatch).unwrap();
    assert!(!span::is_on());
    let step = Step::new("policy", SpanKind::Internal);
    assert!(step.span().is_disabled() && step.trace_parent().is_none());
    step.describe(|_| panic!("there is nothing to describe"));
    let work = async {
        assert!(span::current().is_none() && Connection::current().is_none());
        tracing::info!(target: "conn", "inside");
    };
    let logged = tracing::debug_span!(target: "conn", "outbound");
    Spans::new(logged, "outbound", None).around(step.within(work)).await;
    drop(logging);
    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(text.contains("\tconn:outbound\tinside\t") && text.lines().count() == 1, "{text}");
}
