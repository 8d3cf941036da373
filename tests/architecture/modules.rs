//! Which file knows which other one, and where they know each other in a circle. A name that a module only passes on by
//! `pub use` counts as one of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::File;

/// The path of a module below the crate.
pub(crate) type Module = Vec<String>;

/// The modules of some files.
pub(crate) struct Modules<'a> {
    files: BTreeMap<Module, Vec<&'a File>>,
    /// What a module passes on: by its own path and the name, where the name comes from.
    exports: BTreeMap<(Module, String), Vec<Vec<String>>>,
    edges: Vec<Edge>,
}

/// One file names what another one defines.
struct Edge {
    from: Module,
    to: Module,
    place: String,
}

/// Who knows whom, and where.
type Knows = BTreeMap<String, BTreeMap<String, String>>;

/// Re-exports that are followed for one name.
const HOPS: usize = 16;

// === impl Modules ===

impl<'a> Modules<'a> {
    pub(crate) fn new(files: impl IntoIterator<Item = &'a File>) -> Self {
        let mut modules = Self { files: BTreeMap::new(), exports: BTreeMap::new(), edges: Vec::new() };
        for file in files {
            modules.files.entry(file.module.clone()).or_default().push(file);
        }
        let mut exports: BTreeMap<(Module, String), Vec<Vec<String>>> = BTreeMap::new();
        for file in modules.files.values().flatten() {
            for path in file.paths().into_iter().filter(|path| path.is_export) {
                let target = modules.absolute(file, &path.parts);
                exports.entry((file.module.clone(), path.name)).or_default().extend(target);
            }
        }
        modules.exports = exports;
        modules.edges = modules.read_edges().collect();
        modules
    }

    /// The folders at and below `top` that have modules in them.
    pub(crate) fn folders(&self, top: &[String]) -> BTreeSet<Module> {
        let below = self.files.keys().filter(|module| module.len() > top.len() && module.starts_with(top));
        below.flat_map(|module| (top.len()..module.len()).map(|len| module[..len].to_vec())).collect()
    }

    /// The direct children of `folder` that know each other in a circle, each with all that is below it. The code of the
    /// folder's own file counts as a child, too.
    pub(crate) fn circles(&self, folder: &[String]) -> Vec<String> {
        let mut knows = Knows::new();
        let child = |module: &Module| module.get(folder.len()).map_or("mod.rs", String::as_str).to_owned();
        for edge in self.edges.iter().filter(|e| e.from.starts_with(folder) && e.to.starts_with(folder)) {
            let (from, to) = (child(&edge.from), child(&edge.to));
            if from != to {
                knows.entry(from).or_default().entry(to).or_insert_with(|| edge.place.clone());
            }
        }
        let mut circles = Vec::new();
        for (from, known) in &knows {
            for (to, place) in known.iter().filter(|(to, _)| reaches(&knows, to, from)) {
                let folder = format!("src/{}", folder.join("/"));
                circles
                    .push(format!("{place}: in {folder}, {from} knows {to}, and {to} leads back to {from}"));
            }
        }
        circles
    }

    fn read_edges(&self) -> impl Iterator<Item = Edge> {
        self.files.values().flatten().flat_map(|file| {
            let paths = file.paths().into_iter().filter(|path| !file.is_test(path.at));
            paths.filter_map(|path| {
                let to = self.definition(self.absolute(file, &path.parts)?)?;
                let passes_on = path.is_export && to.starts_with(&file.module);
                let place = || file.place(path.at);
                (!passes_on).then(|| Edge { from: file.module.clone(), to, place: place() })
            })
        })
    }

    /// The parts below the crate, if the path leads there.
    fn absolute(&self, file: &File, parts: &[String]) -> Option<Vec<String>> {
        let parts = parts.strip_suffix(&["self".to_owned()]).unwrap_or(parts);
        let (first, rest) = parts.split_first()?;
        if first == "crate" {
            return Some(rest.to_vec());
        }
        let child = [file.module.as_slice(), std::slice::from_ref(first)].concat();
        self.files.contains_key(&child).then(|| [file.module.as_slice(), parts].concat())
    }

    /// The module that defines what `path` names.
    fn definition(&self, mut path: Vec<String>) -> Option<Module> {
        for _ in 0..HOPS {
            let known = (0..=path.len()).rev().find(|len| self.files.contains_key(&path[..*len]))?;
            let (module, rest) = path.split_at(known);
            let Some((name, rest)) = rest.split_first() else { return Some(path) };
            let Some(source) = self.source(module, name) else { return Some(module.to_vec()) };
            path = [source.as_slice(), rest].concat();
        }
        None
    }

    /// Where `module` has `name` from, if it passes it on.
    fn source(&self, module: &[String], name: &str) -> Option<Vec<String>> {
        let exported = |name: &str| self.exports.get(&(module.to_vec(), name.to_owned()));
        if let Some(target) = exported(name).and_then(|targets| targets.first()) {
            return Some(target.clone());
        }
        let defines = |target: &&Vec<String>| {
            let files = self.definition(target.to_vec()).and_then(|module| self.files.get(&module));
            files.into_iter().flatten().any(|file| file.words(name).next().is_some())
        };
        let target = exported("*")?.iter().find(defines)?;
        Some([target.as_slice(), &[name.to_owned()]].concat())
    }
}

fn reaches(knows: &Knows, from: &str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            next.extend(knows.get(at).into_iter().flat_map(|there| there.keys().map(String::as_str)));
        }
    }
    false
}
