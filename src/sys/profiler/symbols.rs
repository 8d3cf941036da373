//! Names of the functions at addresses, out of the symbol table and the line tables of the running program.

use std::{fs, ops::Range, path::Path, ptr};

use crate::protocols::pprof::NamedFunction;

/// Names addresses. The tables are in memory for as long as this lives.
#[derive(Debug)]
pub(crate) struct Symbols(());

// === impl Symbols ===

impl Symbols {
    /// Nothing is read before the first address is asked for.
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// The functions that the code at `address` belongs to, the innermost of inlined ones first. Empty if nothing has a
    /// name there.
    pub(crate) fn resolve(&self, address: usize) -> Vec<NamedFunction> {
        let mut found = Vec::new();
        // The library expects the address at which a function goes on, which is after the instruction in question.
        let after = ptr::without_provenance_mut(address.wrapping_add(1));
        backtrace::resolve(after, |symbol| {
            if let Some(name) = symbol.name() {
                let file = symbol.filename().map(|file| file.display().to_string()).unwrap_or_default();
                found.push(NamedFunction {
                    name: format!("{name:#}"),
                    file,
                    line: symbol.lineno().unwrap_or(0),
                });
            }
        });
        found
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}

/// The addresses of this program's own code and data; empty if `/proc` cannot be read.
pub(crate) fn program() -> Range<usize> {
    let read = || {
        let path = fs::read_link("/proc/self/exe").ok()?;
        Some(span(&fs::read_to_string("/proc/self/maps").ok()?, &path))
    };
    read().flatten().unwrap_or(0..0)
}

/// The span of all mappings of `path` in `maps` (proc(5)).
fn span(maps: &str, path: &Path) -> Option<Range<usize>> {
    let mut ranges = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        // Five columns, then the path, which may have spaces.
        let mapped = rest.get(rest.find('/')?..)?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (Path::new(mapped) == path).then_some(address(start)?..address(end)?)
    });
    let first = ranges.next()?;
    Some(ranges.fold(first, |span, range| span.start.min(range.start)..span.end.max(range.end)))
}

#[cfg(test)]
mod tests;
