//! The panic hook is the process's: it is tested in a process of its own.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use warren::{
    actors::telemetry::panics,
    protocols::config::LogFormat,
    telemetry::{log::Logging, metrics::Metrics},
};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_is_logged_with_its_place_and_counted() {
    let metrics = Metrics::new("x").unwrap();
    let kept = Kept::default();
    let (dispatch, logging) = Logging::to(kept.clone(), LogFormat::Plain, "info".parse().unwrap()).unwrap();
    panics::install(Arc::clone(&metrics));
    let ended = std::thread::Builder::new()
        .name("shard-7".to_owned())
        .spawn(move || tracing::dispatcher::with_default(&dispatch, || panic!("went\n{}", "wrong")))
        .unwrap()
        .join();
    let _ = std::panic::take_hook();
    assert!(ended.is_err());
    drop(logging);
    let line = String::from_utf8(kept.0.lock().clone()).unwrap();
    let (_, rest) = line.split_once('\t').unwrap();
    let place = "thread=\"shard-7\" location=\"tests/panic_hook.rs:";
    assert!(rest.starts_with(&format!("error\tpanic\tpanicked\t{place}")), "{line}");
    assert!(rest.ends_with("panic=\"went\\nwrong\"\n"), "{line}");
    assert!(metrics.encode().contains("warren_panics_total 1\n"));
}
