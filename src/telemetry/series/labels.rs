//! Label sets in their stored form: the values one after another, and the names from the declaration.

use prometheus::proto::LabelPair;

/// The byte that ends each value but the last. No text in UTF-8 has this byte.
const END: u8 = 0xFF;

/// The labels of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Labels<'a> {
    /// The labels of a bounded family.
    Set(SetLabels<'a>),
    /// The labels of a family of the registry.
    Pairs(&'a [LabelPair]),
}

/// The labels of a bounded family's sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetLabels<'a> {
    pub(crate) names: &'static [&'static str],
    /// The values in the order of the names. There may be fewer values than names.
    pub(crate) values: &'a [u8],
    /// A further value, and the place of its name.
    pub(crate) inserted: Option<(usize, &'static str)>,
}

// === impl SetLabels ===

impl<'a> SetLabels<'a> {
    /// The names and values.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let mut values = self.values.split(|byte| *byte == END);
        let mut value = move |at: usize| match self.inserted {
            Some((place, value)) if place == at => Some(value),
            // The stored values are valid texts.
            _ => values.next().map(|value| str::from_utf8(value).unwrap_or_default()),
        };
        self.names.iter().enumerate().map_while(move |(at, name)| Some((*name, value(at)?)))
    }
}

/// The values of a label set under construction, in the stored form.
#[derive(Debug, Default)]
pub(crate) struct Values(Vec<u8>);

// === impl Values ===

impl Values {
    /// An empty set of values.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a value.
    pub(crate) fn put(&mut self, value: &str) {
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(END);
    }

    /// The bytes of the values added so far.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.strip_suffix(&[END]).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
