//! What the admin port shows and does, out of the parts of the process.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    admin::{
        AdminAddrs,
        actors::{of_tree, quarantined},
        chaos::Chaos,
        console::Console,
        crashes,
        cut::Cutter,
        dump::Dump,
        events::EventsPage,
        page::Page,
        profiles::Profiles,
        readiness::Readiness,
        why::Why,
    },
    config_dump::DumpSources,
    control::{certs::Certs, xds::Xds, zds::Zds},
    live::LiveSources,
    page::{self, PageSources},
    pods::Pods,
    quarantine::Quarantine,
    why::WhySources,
};
use crate::{
    protocols::config::Config, supervisor::TreeHandle, sys::socket::wildcard, telemetry::log::Logging,
};

/// What the admin port shows of the data plane.
pub(super) struct Shown {
    config_dump: Dump,
    live: Dump,
    events: EventsPage,
    cutter: Cutter,
    why: Why,
    page: PageSources,
}

/// What the admin port reaches of the running tree.
#[derive(Clone)]
pub(super) struct TreeAccess {
    /// A message asks the process to end.
    pub(super) quit: mpsc::Sender<()>,
    /// Set once the tree has started.
    pub(super) handle: Arc<OnceLock<TreeHandle>>,
    /// The notes that the tree is shown with.
    pub(super) readiness: Readiness,
}

/// What answers the admin port.
pub(super) fn console(
    config: &Config,
    logging: &Logging,
    quarantine: &Quarantine,
    Shown { config_dump, live, events, cutter, why, page }: Shown,
    TreeAccess { quit, handle, readiness }: TreeAccess,
) -> Console {
    Console {
        page: Page::new(page.look(handle.clone(), readiness.clone()), why.clone()),
        log: logging.handle(),
        config_dump,
        actors: of_tree(handle.clone(), readiness),
        crashes: crashes::of_tree(handle.clone()),
        quarantine: quarantined(quarantine.clone(), handle.clone()),
        live,
        events,
        cutter,
        why,
        profiles: Profiles::default(),
        chaos: Chaos::new(config.process.chaos.enabled, handle),
        // Asked twice is asked once.
        quit: Arc::new(move || {
            let _ = quit.try_send(());
        }),
    }
}

/// Where the servers listen.
pub(super) fn admin_addrs(config: &Config) -> AdminAddrs {
    let (ports, ipv6) = (&config.process.admin, config.listen.ipv6_enabled);
    let mut console = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin_port))];
    if ipv6 {
        console.push(SocketAddr::from((Ipv6Addr::LOCALHOST, ports.admin_port)));
    }
    AdminAddrs {
        readiness: vec![wildcard(ipv6, ports.readiness_port)],
        stats: vec![wildcard(ipv6, ports.stats_port)],
        console,
    }
}

// === impl Shown ===

impl Shown {
    /// What is shown of these parts.
    pub(super) fn of(
        config: &Config,
        pods: &Pods,
        certs: &Certs,
        xds: Option<&Xds>,
        zds: Option<&Zds>,
    ) -> Self {
        let node = pods.node();
        let dumped = DumpSources {
            mesh: node.mesh.tables().clone(),
            certs: certs.clone(),
            pods: pods.clone(),
            zds: zds.map(Zds::status),
        };
        let live = LiveSources {
            mesh: node.mesh.tables().clone(),
            pods: pods.clone(),
            zds: zds.map(Zds::status),
            started: Instant::now(),
        };
        let page = PageSources {
            name: page::name_of(&config.node),
            live: live.clone(),
            certs: certs.clone(),
            xds: xds.map(Xds::state),
        };
        let why = WhySources { mesh: node.mesh.clone(), certs: certs.clone(), pods: pods.clone() };
        Self {
            config_dump: dumped.dump(config),
            cutter: Cutter::new(config.process.chaos.enabled, live.clone().end()),
            live: live.dump(),
            events: EventsPage::new(node.metrics.events.clone()),
            why: Why::new(why.explain(&node.config)),
            page,
        }
    }
}
