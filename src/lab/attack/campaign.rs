//! All attacks one after the other, against one proxy with a limit of memory.

use std::{error::Error, path::Path, time::Duration};

use super::{
    arena::{ATTACKED, Arena},
    catalogue::Entry,
    ceilings::Ceilings,
    memory::MemoryGroup,
    trial::{self, Outcome},
};

/// A mesh, the limit of memory of the attacked proxy, and what its attacks may cost.
pub(super) struct Campaign {
    arena: Arena,
    group: Result<MemoryGroup, String>,
    limit_bytes: u64,
    ceilings: Ceilings,
}

/// How the attacked proxy has stood all attacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stood {
    /// The most resident memory that it ever had, in bytes.
    pub(super) peak_bytes: u64,
    /// Why its memory had no limit of the kernel, if it had none.
    pub(super) unlimited: Option<String>,
    /// What it has not stood.
    pub(super) complaints: Vec<String>,
}

impl Campaign {
    /// Raises the mesh, with `program` as the proxies and its files in `directory`, and sets the limit of memory.
    pub(super) fn raise(
        (id, directory, program): (&str, &Path, &Path),
        limit_bytes: u64,
        ceilings: Ceilings,
    ) -> Result<Self, Box<dyn Error>> {
        let mut arena = Arena::raise(id, directory, program)?;
        let pid = arena.testbed.proxy(ATTACKED)?.pid();
        let group = MemoryGroup::new(&format!("warren-attack-{}", std::process::id()), limit_bytes);
        let group =
            group.and_then(|group| group.take(pid).map(|()| group)).map_err(|error| error.to_string());
        Ok(Self { arena, group, limit_bytes, ceilings })
    }

    /// Makes one attack for `time`.
    pub(super) fn attack(&mut self, entry: &Entry, time: Duration) -> Result<Outcome, String> {
        trial::run(&mut self.arena, entry, time, &self.ceilings)
            .map_err(|error| format!("{}: {error}", entry.name))
    }

    /// Takes the mesh down, and says how the attacked proxy has stood it.
    pub(super) fn end(mut self) -> Result<Stood, Box<dyn Error>> {
        let process = self.arena.testbed.proxy(ATTACKED)?;
        let mut complaints = Vec::new();
        if let Some(status) = process.status()? {
            complaints.push(format!("the proxy has ended: {status}"));
        }
        let peak_bytes = process.usage()?.peak_bytes;
        if peak_bytes > self.limit_bytes {
            complaints.push(format!("{} MiB at its peak, over {}", peak_bytes >> 20, self.limit_bytes >> 20));
        }
        let kills = self.group.as_ref().map(MemoryGroup::kills);
        match kills {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(kills)) => complaints.push(format!("killed {kills} times for want of memory")),
            Ok(Err(error)) => complaints.push(format!("nobody knows whether it was killed: {error}")),
        }
        self.arena.testbed.lower()?;
        Ok(Stood { peak_bytes, unlimited: self.group.err(), complaints })
    }
}
