//! The problems of a mesh file, and their lines.

use std::fmt;

/// A problem in a mesh file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: u64,
    /// The item, and what is wrong with it.
    pub what: String,
}

/// All problems of a mesh file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

// === impl Problems ===

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let end = if i + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "line {}: {}{end}", problem.line, problem.what)?;
        }
        Ok(())
    }
}
