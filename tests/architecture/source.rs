//! The source as the rules look at it: files without comments and texts, the parts that only tests compile, and the
//! paths that the code names. It knows as much of the language as that takes.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The attributes of what only tests and the fuzzer compile.
const TEST_MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"];

/// A source file.
pub(crate) struct File {
    /// Relative to the manifest, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The text with comments, strings and characters blanked; byte offsets and lines are those of `text`.
    pub code: String,
    /// The module path below the crate: `src/protocols/hbone/io.rs` is `protocols`, `hbone`, `io`.
    pub module: Vec<String>,
    tests: Vec<Range<usize>>,
}

/// A path the code names, such as `tokio::net::TcpStream`, written out.
pub(crate) struct Named {
    /// Its parts. One that begins with `crate`, `self` or `super` has been resolved to begin with `crate`.
    pub parts: Vec<String>,
    /// The name that a `use` gives it, `*` for all names below it; else its last part.
    pub name: String,
    /// It stands in a `pub use`, of whatever visibility.
    pub is_export: bool,
    /// Where it stands.
    pub at: usize,
}

/// The directory of the manifest: the one cargo runs the tests for, even if it has found them compiled for another.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()).into()
}

/// A text file of the project.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files of `src` and `tests`, sorted by path.
pub(crate) fn files() -> &'static [File] {
    static FILES: LazyLock<Vec<File>> = LazyLock::new(read_all);
    &FILES
}

fn read_all() -> Vec<File> {
    let mut paths = Vec::new();
    for directory in ["src", "tests"] {
        collect(&root().join(directory), &mut paths);
    }
    let mut files: Vec<File> = paths.iter().map(|path| File::read(path)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    mark_test_files(&mut files);
    files
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Files of modules declared under one of [`TEST_MARKS`], and everything below them, are tests as a whole.
fn mark_test_files(files: &mut [File]) {
    let mut whole: BTreeSet<String> = BTreeSet::new();
    for file in files.iter() {
        whole.extend(file.test_modules());
    }
    for file in files {
        let below = |test: &String| {
            let directory = test.strip_suffix("/mod.rs").or(test.strip_suffix(".rs")).unwrap_or(test);
            file.path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
        };
        if file.path.starts_with("tests/") || whole.contains(&file.path) || whole.iter().any(below) {
            file.tests = std::iter::once(0..file.text.len()).collect();
        }
    }
}

// === impl File ===

impl File {
    fn read(path: &Path) -> Self {
        let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
        Self::new(relative, fs::read_to_string(path).unwrap())
    }

    pub(crate) fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let stem = path.strip_suffix(".rs").unwrap_or(&path);
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let module = stem.split('/').skip(1).map(str::to_owned);
        let module = module.filter(|part| part != "lib" && part != "main").collect();
        let mut file = Self { path, text, code, module, tests: Vec::new() };
        file.tests = file.test_items().into_iter().map(|(range, _)| range).collect();
        file
    }

    /// Number of lines.
    pub(crate) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// `path:line` of an offset.
    pub(crate) fn place(&self, at: usize) -> String {
        format!("{}:{}", self.path, self.text[..at].matches('\n').count() + 1)
    }

    /// Whether only tests compile what stands at `at`.
    pub(crate) fn is_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Whether the file is a test as a whole.
    pub(crate) fn is_test_file(&self) -> bool {
        self.tests.first().is_some_and(|range| *range == (0..self.text.len()))
    }

    /// Where `word` stands in the code, as a word of its own.
    pub(crate) fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            !part(before) && !part(after)
        })
    }

    /// The paths the code names, use trees taken apart.
    pub(crate) fn paths(&self) -> Vec<Named> {
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        let mut i = 0;
        while i < tokens.len() {
            let is_use = tokens[i].text == "use" && tokens.get(i + 1).is_some_and(|next| next.text != "<");
            if is_use {
                let first = found.len();
                let is_export = i > 0 && matches!(tokens[i - 1].text, "pub" | ")");
                i = self.use_tree(&tokens, i + 1, &[], &mut found);
                found[first..].iter_mut().for_each(|named: &mut Named| named.is_export = is_export);
            } else if tokens[i].is_word() && tokens.get(i + 1).is_some_and(|next| next.text == "::") {
                let at = tokens[i].at;
                let mut parts = vec![tokens[i].text.to_owned()];
                while tokens.get(i + 1).is_some_and(|t| t.text == "::")
                    && tokens.get(i + 2).is_some_and(Token::is_word)
                {
                    parts.push(tokens[i + 2].text.to_owned());
                    i += 2;
                }
                found.push(self.named(parts, None, at));
                i += 1;
            } else {
                i += 1;
            }
        }
        found
    }

    /// Takes the tree that begins at token `i` apart; returns where it ends.
    fn use_tree(
        &self,
        tokens: &[Token<'_>],
        mut i: usize,
        prefix: &[String],
        found: &mut Vec<Named>,
    ) -> usize {
        let mut parts = prefix.to_vec();
        let at = tokens.get(i).map_or(0, |token| token.at);
        let mut name = None;
        while let Some(token) = tokens.get(i) {
            match token.text {
                "::" => i += 1,
                "as" => {
                    name = tokens.get(i + 1).map(|token| token.text.to_owned());
                    i += 2;
                }
                "{" => {
                    i += 1;
                    while tokens.get(i).is_some_and(|token| token.text != "}") {
                        i = self.use_tree(tokens, i, &parts, found);
                        if tokens.get(i).is_some_and(|token| token.text == ",") {
                            i += 1;
                        }
                    }
                    return i + 1;
                }
                "*" => {
                    name = Some("*".to_owned());
                    i += 1;
                    break;
                }
                _ if token.is_word() => {
                    parts.push(token.text.to_owned());
                    i += 1;
                }
                _ => break,
            }
        }
        found.push(self.named(parts, name, at));
        i
    }

    fn named(&self, parts: Vec<String>, name: Option<String>, at: usize) -> Named {
        let parts = self.resolve(parts);
        let last = parts.iter().rev().find(|part| *part != "self");
        let name = name.or(last.cloned()).unwrap_or_default();
        Named { parts, name, is_export: false, at }
    }

    fn resolve(&self, parts: Vec<String>) -> Vec<String> {
        let supers = parts.iter().take_while(|part| *part == "super").count();
        let base = match parts.first().map(String::as_str) {
            Some("crate") | None => return parts,
            Some("self") => &self.module[..],
            Some("super") => &self.module[..self.module.len().saturating_sub(supers)],
            Some(_) => return parts,
        };
        let crate_ = std::iter::once("crate".to_owned());
        crate_.chain(base.iter().cloned()).chain(parts.into_iter().skip(supers.max(1))).collect()
    }

    /// Items under one of [`TEST_MARKS`], each with the name of the file it declares, if it is a module out of line.
    fn test_items(&self) -> Vec<(Range<usize>, Option<String>)> {
        let mut items = Vec::new();
        let marks = TEST_MARKS.iter().flat_map(|mark| self.code.match_indices(mark));
        for (start, attribute) in marks {
            let mut at = start + attribute.len();
            let mut path = None;
            // Other attributes may stand between. Their texts are blanked in the code, not in the text.
            while let Some(offset) = self.code[at..].find(|c: char| !c.is_whitespace()) {
                if !self.code[at + offset..].starts_with("#[") {
                    break;
                }
                let end = at + offset + self.code[at + offset..].find(']').unwrap_or(0);
                let attribute = &self.text[at + offset..end];
                path = attribute.strip_prefix("#[path = ").map(|p| p.trim_matches('"').to_owned()).or(path);
                at = end + 1;
            }
            let Some(end) = self.code[at..].find(['{', ';']) else { continue };
            let end = at + end;
            let declared = self.code[at..end].split_whitespace().collect::<Vec<_>>();
            let name = declared.iter().position(|word| *word == "mod").and_then(|i| declared.get(i + 1));
            if self.code[end..].starts_with(';') {
                let name = name.map(|name| path.unwrap_or_else(|| (*name).to_owned()));
                items.push((start..end + 1, name));
            } else {
                items.push((start..closing(&self.code, end), None));
            }
        }
        items
    }

    fn test_modules(&self) -> Vec<String> {
        let here = self.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let is_root = ["/mod", "/lib", "/main"].iter().any(|root| stem.ends_with(root));
        let below = if is_root { here } else { stem };
        let named = self.test_items().into_iter().filter_map(|(_, name)| name);
        named
            .flat_map(|name| match name.strip_suffix(".rs") {
                Some(_) => vec![format!("{here}/{name}")],
                None => vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")],
            })
            .collect()
    }
}

/// Just past the brace that closes the one at `open`.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return i + 1;
        }
    }
    code.len()
}

struct Token<'a> {
    text: &'a str,
    at: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        let word = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(code.len() - at);
        let len = match c {
            _ if word > 0 => word,
            _ if code[at..].starts_with("::") => 2,
            _ => c.len_utf8(),
        };
        if !c.is_whitespace() {
            tokens.push(Token { text: &code[at..at + len], at });
        }
        at += len;
    }
    tokens
}

/// `text` with everything in comments, strings and characters replaced by blanks; line breaks stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(text, at) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = rest.find('"').unwrap_or(0) + 1;
            rest[open..].find(&end).map_or(rest.len(), |close| open + close + end.len())
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if rest.starts_with('\'') && is_character(rest) {
            quoted(rest, b'\'')
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        out[at..at + len].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at += len;
    }
    String::from_utf8(out).expect("whole characters are blanked")
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// How many hashes the raw string at `at` has, if there is one.
fn raw_string(text: &str, at: usize) -> Option<usize> {
    let before = text[..at].chars().next_back();
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let rest = &text[at..];
    let rest = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn quoted(text: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether the quote begins a character rather than a lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}
