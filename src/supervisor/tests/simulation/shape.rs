//! The shape of the simulated tree.

use std::collections::BTreeMap;

use crate::supervisor::{Intensity, tests::support::SECOND};

/// Each supervisor with its strategy and its intensity in restarts and seconds. The children of dynamic ones are those
/// that a run has.
const TREE: &str = "\
root one 10 300
  telemetry
  admin one 3 60
    readiness
    stats
    console
    health
  certs
  crl
  meshsup rest 3 60
    mesh
    xds
  shards one 3 60
    shard-0
    shard-1
  dataplane rest 60 60
    pods dynamic 8 30
      a one 10 30
        a-tunnels dynamic 3 60
          a-peer-0
          a-peer-1
        a-conns
        a-inbound
        a-plaintext
        a-outbound
        a-dns
      b one 10 30
        b-tunnels dynamic 3 60
          b-peer-0
        b-conns
        b-inbound
        b-outbound
    zds
    policy
    audit
";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Worker,
    One,
    Rest,
    Dynamic,
}

/// A place in the tree. The parent of the root is the root.
pub(super) struct Place {
    pub(super) id: &'static str,
    pub(super) path: String,
    pub(super) parent: usize,
    pub(super) kind: Kind,
    pub(super) intensity: Intensity,
}

/// All places in the order of the drawing, and the number of each path.
pub(super) struct Shape(pub(super) Vec<Place>, BTreeMap<String, usize>);

/// Who counts failures: a supervisor those of its fixed children, or those of one dynamic child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counter {
    Family(usize),
    Child(usize),
}

// === impl Shape ===

impl Shape {
    pub(super) fn new() -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut above: Vec<usize> = Vec::new();
        for line in TREE.lines() {
            let depth = (line.len() - line.trim_start().len()) / 2;
            let words: Vec<&'static str> = line.split_whitespace().collect();
            above.truncate(depth);
            let parent = above.last().copied().unwrap_or(0);
            let path = match depth {
                0 => words[0].to_owned(),
                _ => format!("{}/{}", places[parent].path, words[0]),
            };
            let kind = match words.get(1) {
                None => Kind::Worker,
                Some(&"one") => Kind::One,
                Some(&"rest") => Kind::Rest,
                Some(_) => Kind::Dynamic,
            };
            let number = |at: usize| words.get(at).map_or(0, |word| word.parse().unwrap());
            let intensity = Intensity { restarts: number(2), within: number(3) * SECOND };
            above.push(places.len());
            places.push(Place { id: words[0], path, parent, kind, intensity });
        }
        let by_path = places.iter().enumerate().map(|(at, place)| (place.path.clone(), at)).collect();
        Self(places, by_path)
    }

    pub(super) fn at(&self, path: &str) -> usize {
        self.1[path]
    }

    pub(super) fn children(&self, of: usize) -> impl Iterator<Item = usize> + '_ {
        (1..self.0.len()).filter(move |&i| self.0[i].parent == of)
    }

    pub(super) fn is_below(&self, mut place: usize, above: usize) -> bool {
        while place != above && place != 0 {
            place = self.0[place].parent;
        }
        place == above
    }

    /// Whether the loss of `lost` costs `place` its life: what is below it, and what the strategy restarts with it.
    pub(super) fn costs(&self, lost: usize, place: usize) -> bool {
        let parent = self.0[lost].parent;
        let with = |sibling: usize| sibling == lost || (self.0[parent].kind == Kind::Rest && sibling > lost);
        self.is_below(place, lost)
            || self.children(parent).any(|sibling| with(sibling) && self.is_below(place, sibling))
    }

    /// Who counts the failures of `place`.
    pub(super) fn counter(&self, place: usize) -> Counter {
        let parent = self.0[place].parent;
        if self.0[parent].kind == Kind::Dynamic { Counter::Child(place) } else { Counter::Family(parent) }
    }

    pub(super) fn limit(&self, counter: Counter) -> Intensity {
        match counter {
            Counter::Child(place) => self.0[self.0[place].parent].intensity,
            Counter::Family(of) => self.0[of].intensity,
        }
    }
}
