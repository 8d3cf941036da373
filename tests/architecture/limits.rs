//! Makes docs/limits.md from the `Limit:` lines of the source, and asks each constant that can bound something for one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    documents::generated,
    report,
    source::{File, files},
};

/// A bound as its line says it.
struct Limit<'a> {
    what: &'a str,
    value: &'a str,
    past: &'a str,
}

/// A `Limit:` or `No limit:` line, what stands below it, and where that is.
struct Said {
    text: String,
    item: String,
    at: usize,
}

const HEAD: &str = "\
# Limits

Every bound of the program that is no setting, and what happens past it. [settings.md](settings.md) has those that an
operator sets. The file is made from the `Limit:` lines of the source; `WARREN_BLESS=1 cargo test document` writes it
anew.
";

#[test]
fn the_document_names_every_limit_and_no_other() {
    let mut wrong = Vec::new();
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    for file in production() {
        let folder = file.module.first().map_or("", String::as_str);
        for said in said(file) {
            let Some(text) = said.text.strip_prefix("Limit: ") else { continue };
            let Some(limit) = Limit::read(text) else {
                wrong.push(format!(
                    "{}: write `Limit: what: value; past it: what happens.`, not {text:?}",
                    file.place(said.at)
                ));
                continue;
            };
            let Limit { what, value, past } = limit;
            let path = file.path.strip_prefix("src/").unwrap_or(&file.path);
            let table = tables.entry(folder).or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {what} | {value} | {past} | `{}` in `{path}` |", said.item);
        }
    }
    report(wrong);
    let mut text = HEAD.to_owned();
    for (folder, rows) in tables {
        let _ =
            write!(text, "\n## {folder}\n\n| What | Value | Past it | Where |\n|---|---|---|---|\n{rows}");
    }
    generated("docs/limits.md", &text);
}

#[test]
fn each_constant_says_what_it_bounds() {
    let mut wrong = Vec::new();
    for file in production() {
        let known: BTreeSet<usize> = said(file).into_iter().map(|said| said.at).collect();
        for (name, at) in constants(file) {
            if !known.contains(&at) {
                wrong.push(format!("{}: {name} has no line `Limit:` or `No limit:`", file.place(at)));
            }
        }
    }
    report(wrong);
}

#[test]
fn a_line_is_read_to_its_end() {
    let text = "/// Most rows.\n/// Limit: rows: 3; past it: a row\n/// waits.\n#[derive(Debug)]\nconst ROWS: usize = 3;\n\
                /// No limit: a port.\npub(crate) const PORT: u16 = 1;\nconst BARE: usize = 1;\n\
                struct Cut<const MAX: usize = 1>;\nstruct Of<T, const MOST: usize = 1>(T);\n";
    let file = File::new("src/sys/x.rs".into(), text.into());
    let found: Vec<(String, String)> = said(&file).into_iter().map(|said| (said.item, said.text)).collect();
    let pair = |item: &str, text: &str| (item.to_owned(), text.to_owned());
    assert_eq!(
        found,
        [pair("ROWS", "Limit: rows: 3; past it: a row waits."), pair("PORT", "No limit: a port.")]
    );
    let names: Vec<String> = constants(&file).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["ROWS", "PORT", "BARE"]);
}

/// The files of the proxy: the lab bounds nothing that an operator meets.
fn production() -> impl Iterator<Item = &'static File> {
    let is_production = |file: &&File| {
        file.path.starts_with("src/") && !file.path.starts_with("src/lab/") && !file.is_test_file()
    };
    files().iter().filter(is_production)
}

/// Constants of a type that can bound something, outside tests, and where they stand. Parameters of types are none.
fn constants(file: &File) -> Vec<(String, usize)> {
    let types = ["Duration", "usize", "u16", "u32", "u64", "i32", "f64"];
    let is_parameter = |at: &usize| file.code[..*at].trim_end().ends_with(['<', ',']);
    let consts = file.words("const").filter(|at| !file.is_test(*at) && !is_parameter(at));
    consts
        .filter_map(|at| {
            let (name, kind) = file.code[at + "const".len()..].split_once(':')?;
            let kind = kind.trim_start().split([' ', ';', '=']).next()?;
            let name = name.trim();
            let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            (is_name && types.contains(&kind)).then(|| (name.to_owned(), at))
        })
        .collect()
}

/// The lines of a file, each with the keyword of the item below it as its place.
fn said(file: &File) -> Vec<Said> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    let mut is_going_on = false;
    let mut at = 0;
    for line in file.text.split_inclusive('\n') {
        let (start, trimmed) = (at, line.trim());
        at += line.len();
        let doc = trimmed.strip_prefix("///").map(str::trim);
        match doc {
            Some(text) if text.starts_with("Limit: ") || text.starts_with("No limit: ") => {
                open = Some(text.to_owned());
                is_going_on = true;
            }
            Some("") => is_going_on = false,
            Some(text) if is_going_on => {
                if let Some(said) = &mut open {
                    said.push(' ');
                    said.push_str(text);
                }
            }
            Some(_) => {}
            None if trimmed.starts_with("#[") => is_going_on = false,
            None => {
                is_going_on = false;
                let Some(text) = open.take() else { continue };
                if let Some((item, offset)) = item(line) {
                    found.push(Said { text, item, at: start + offset });
                }
            }
        }
    }
    found
}

/// The name that a line defines, and where its keyword is.
fn item(line: &str) -> Option<(String, usize)> {
    let keywords = ["const", "static", "fn", "struct", "enum", "mod", "type"];
    let mut words = line.split_inclusive([' ', '(', ':', '<', ';']);
    let mut at = 0;
    loop {
        let word = words.next()?;
        if keywords.contains(&word.trim_end()) {
            let name = words.next()?.trim_end_matches([' ', '(', ':', '<', ';', '\n']);
            return Some((name.to_owned(), at));
        }
        at += word.len();
    }
}

// === impl Limit ===

impl<'a> Limit<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (rest, past) = text.strip_suffix('.')?.split_once("; past it: ")?;
        let (what, value) = rest.split_once(": ")?;
        Some(Self { what, value, past })
    }
}
