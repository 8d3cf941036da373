//! Holds the documents to the source: their sizes, their links, and the names in them.

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

use super::{
    report,
    source::{File, files, read, root},
};

/// The documents that are kept short, and the most bytes of each.
const SIZES: [(&str, usize); 23] = [
    ("README.md", 9_000),
    ("ARCHITECTURE.md", 15_000),
    ("CONTRIBUTING.md", 6_000),
    ("docs/data-path.md", 12_000),
    ("docs/control-path.md", 12_000),
    ("docs/networks.md", 5_000),
    ("docs/operations.md", 12_000),
    ("docs/runbooks.md", 8_000),
    ("docs/getting-started.md", 8_000),
    ("docs/chaos-guide.md", 8_000),
    ("docs/faq.md", 8_000),
    ("docs/comparison.md", 8_000),
    ("docs/commands.md", 10_000),
    ("docs/page.md", 5_000),
    ("docs/decisions.md", 10_000),
    ("docs/security.md", 10_000),
    ("docs/attacks.md", 8_000),
    ("docs/differences.md", 10_000),
    ("docs/glossary.md", 2_000),
    ("docs/performance.md", 10_000),
    ("docs/cluster.md", 8_000),
    ("docs/migration.md", 8_000),
    ("docs/troubleshooting.md", 8_000),
];

/// The documents whose names in backquotes have to be names of the source.
const NAMING: [&str; 13] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/data-path.md",
    "docs/networks.md",
    "docs/control-path.md",
    "docs/lab.md",
    "docs/operations.md",
    "docs/decisions.md",
    "docs/security.md",
    "docs/differences.md",
    "docs/glossary.md",
    "tests/README.md",
];

/// Words in backquotes that look like names of the source and are names of something else.
const FOREIGN: [&str; 7] = [
    "foo.rs",
    "foo/tests.rs",
    "drain_timeout_ms",
    "LocalRuntime",
    "parentbased_always_off",
    "RetryInfo",
    "experimental_metrics_custom_reader",
];

/// A text file with its path from the root.
struct Text {
    path: String,
    text: String,
}

/// A citation: `docs/spec/FILE NUMBERS`, and where it stands.
struct Citation {
    file: String,
    numbers: Vec<String>,
    place: String,
}

#[test]
fn documents_are_short() {
    let long = SIZES.iter().filter_map(|(path, most)| {
        let size = read(path).len();
        (size > *most).then(|| format!("{path}: {size} bytes are more than {most}"))
    });
    report(long.collect());
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        for link in links(&document.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { document.path.clone() } else { beside(&document.path, path) };
            if !root().join(&path).exists() {
                wrong.push(format!("{}: there is no {path}", document.path));
            } else if !heading.is_empty() && !headings(&read(&path)).any(|known| slug(known) == heading) {
                wrong.push(format!("{}: {path} has no heading {heading:?}", document.path));
            }
        }
    }
    report(wrong);
}

#[test]
fn citations_of_the_contract_name_a_heading() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for citation in texts_of_the_repository().iter().flat_map(citations) {
        found += 1;
        let path = format!("docs/spec/{}", citation.file);
        if !root().join(&path).exists() {
            wrong.push(format!("{}: there is no {path}", citation.place));
            continue;
        }
        if citation.numbers.is_empty() && citation.place.contains(".rs:") {
            wrong.push(format!("{}: name the section of {path} by its number", citation.place));
        }
        let contract = read(&path);
        let known: BTreeSet<&str> = headings(&contract).filter_map(number).collect();
        let missing = citation.numbers.iter().filter(|number| !known.contains(number.as_str()));
        wrong.extend(missing.map(|number| format!("{}: {path} has no section {number}", citation.place)));
    }
    assert!(found > 100, "{found} citations: the test does not see them any more");
    report(wrong);
}

#[test]
fn files_and_names_in_backquotes_exist() {
    static WORDS: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
        let words =
            files().iter().flat_map(|file| file.code.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.filter(|word| !word.is_empty()).collect()
    });
    let paths = paths();
    let mut wrong = Vec::new();
    for path in NAMING {
        for name in quoted(&read(path)) {
            let exists = if is_path(name) {
                let (inner, end) = (format!("/{name}"), format!("/{}", name.trim_end_matches('/')));
                let is_there = |path: &String| {
                    path == name
                        || path.ends_with(&end)
                        || name.ends_with('/') && format!("/{path}").contains(&inner)
                };
                paths.iter().any(is_there)
            } else if is_identifier(name) {
                let last = name.trim_end_matches("()").rsplit("::").next().unwrap_or_default();
                WORDS.contains(last)
            } else {
                true
            };
            if !exists && !FOREIGN.contains(&name) {
                wrong.push(format!("{path}: there is no `{name}`"));
            }
        }
    }
    report(wrong);
}

#[test]
fn the_metrics_name_every_family_and_no_other() {
    let metrics = read("docs/metrics.md");
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    let is_production = |file: &&File| {
        file.path.starts_with("src/") && !file.path.starts_with("src/lab/") && !file.is_test_file()
    };
    for file in files().iter().filter(is_production) {
        for (at, name) in strings(file).filter(|(at, _)| !file.is_test(*at)) {
            if is_family(name) && known.insert(format!("`{name}`")) && !metrics.contains(&format!("`{name}`"))
            {
                wrong.push(format!("{}: {name} is not in docs/metrics.md", file.place(at)));
            }
        }
    }
    for path in ["docs/metrics.md", "docs/operations.md"] {
        let text = read(path);
        let named = quoted(&text).filter(|name| is_family(name)).map(|name| format!("`{name}`"));
        let stale: Vec<String> = named.filter(|name| !known.contains(name)).collect();
        wrong.extend(stale.iter().map(|name| format!("{path}: there is no metric {name}")));
    }
    report(wrong);
}

#[test]
fn citations_and_links_are_read_as_they_are_meant() {
    let text =
        "/// As it is (docs/spec/dataplane.md 1.2, 2.2 and 6) and in\n/// docs/spec/protos.md\n/// 4.\n";
    let text = Text { path: "src/x.rs".into(), text: text.into() };
    let found: Vec<(String, Vec<String>)> =
        citations(&text).map(|found| (found.file, found.numbers)).collect();
    let numbers = |list: &[&str]| list.iter().map(|number| (*number).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        found,
        [
            ("dataplane.md".to_owned(), numbers(&["1.2", "2.2", "6"])),
            ("protos.md".to_owned(), numbers(&["4"]))
        ]
    );
    let text = "[a](b.md#c-d) and `[no](x.md)`\n```text\n[no](y.md)\n```\n![e](f.svg)\n";
    assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c-d", "f.svg"]);
    assert_eq!(slug("## 2.1 TLS **[W]** and `names`"), "21-tls-w-and-names");
    assert_eq!(beside("docs/spec/README.md", "../a.md"), "docs/a.md");
}

/// Compares a document with what it has to be, or writes it anew where `WARREN_BLESS` is set.
#[track_caller]
pub(crate) fn generated(path: &str, text: &str) {
    let place = root().join(path);
    if std::env::var_os("WARREN_BLESS").is_some() {
        fs::write(&place, text).unwrap();
    }
    let stands = fs::read_to_string(&place).unwrap_or_default();
    let differs = stands.lines().zip(text.lines()).find(|(stands, is)| stands != is);
    assert!(
        stands == text,
        "{path} is not what the source says, first at {differs:?}: set WARREN_BLESS=1 to write it"
    );
}

/// Every Markdown file of the repository.
fn documents() -> Vec<Text> {
    let paths = paths().into_iter().filter(|path| path.ends_with(".md"));
    paths.map(|path| Text { text: read(&path), path }).collect()
}

/// Every file that may cite the contract, but the contract itself.
fn texts_of_the_repository() -> Vec<Text> {
    let kinds = [".rs", ".md", ".proto", ".toml", ".yaml", ".py"];
    let paths = paths().into_iter().filter(|path| kinds.iter().any(|kind| path.ends_with(kind)));
    let paths =
        paths.filter(|path| !path.starts_with("docs/spec/") && !path.starts_with("tests/architecture/"));
    paths.map(|path| Text { text: read(&path), path }).collect()
}

/// The paths of all files, from the root; without what is built or belongs to git.
fn paths() -> Vec<String> {
    fn collect(directory: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != ".git" {
                collect(&path, into);
            } else if path.is_file() {
                into.push(path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort();
    found
}

/// The citations of a text, whose comments may break them over lines.
fn citations(text: &Text) -> impl Iterator<Item = Citation> {
    const START: &str = "docs/spec/";
    text.text.match_indices(START).filter_map(|(at, _)| {
        let rest = &text.text[at + START.len()..];
        let end = rest.find(".md")? + ".md".len();
        let file = rest[..end].to_owned();
        if file.contains(|c: char| !c.is_ascii_lowercase() && c != '.') {
            return None;
        }
        let following =
            rest[end..].replace("\n", " ").replace("///", " ").replace("//!", " ").replace("//", " ");
        let line = text.text[..at].matches('\n').count() + 1;
        Some(Citation { file, numbers: section_numbers(&following), place: format!("{}:{line}", text.path) })
    })
}

/// The numbers at the beginning of a text, with `,`, `and` and `to` between them.
fn section_numbers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with(' ') {
        return found;
    }
    for word in text.split_whitespace() {
        if ["and", "to"].contains(&word) && !found.is_empty() {
            continue;
        }
        let number: String = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let after = &word[number.len()..];
        let number = number.trim_end_matches('.');
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            break;
        }
        found.push(number.to_owned());
        if after != "," && !after.is_empty() || word.ends_with('.') {
            break;
        }
    }
    found
}

/// The headings of a document, with their `#`.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    prose(text).filter(|line| line.starts_with('#'))
}

/// The number that a heading begins with.
fn number(heading: &str) -> Option<&str> {
    let title = heading.trim_start_matches('#').trim_start();
    let end = title.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(title.len());
    let number = title[..end].trim_end_matches('.');
    (!number.is_empty()).then_some(number)
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim();
    let kept = title.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Lines outside of blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with("    ")
    })
}

/// The targets of the links of a document.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| {
        let plain = line.split('`').step_by(2);
        plain.flat_map(|part| part.split("](").skip(1)).filter_map(|rest| rest.split(')').next())
    })
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A path from the root, of a path relative to a file.
fn beside(file: &str, path: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a word is the path of a file or folder of the repository, or means to be.
fn is_path(name: &str) -> bool {
    let kinds = ["rs", "md", "yaml", "toml", "svg", "py", "proto", "sh"];
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_file = name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind));
    is_word && !name.starts_with('/') && !name.starts_with("./var") && (is_file || name.ends_with('/'))
}

/// Whether a word is a name of the source, or means to be: a path of modules, a test or function of several words, a
/// type of several words.
fn is_identifier(name: &str) -> bool {
    let name = name.trim_end_matches("()");
    let is_word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let humps =
        name.chars().zip(name.chars().skip(1)).filter(|(a, b)| a.is_lowercase() && b.is_uppercase()).count();
    let is_type = is_word(name) && name.starts_with(|c: char| c.is_ascii_uppercase()) && humps > 0;
    let is_function = is_word(name)
        && name.matches('_').count() >= 2
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !is_family(name);
    name.contains("::") && name.split("::").all(is_word) || is_type || is_function
}

/// Whether a word is the name of a family of metrics, or means to be.
fn is_family(name: &str) -> bool {
    let prefixes = ["istio_", "warren_", "workload_manager_", "process_"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        && !name.ends_with('_')
}

/// The texts in the code, without escapes: what stands between two quotes that the code has blanked.
fn strings(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let is_blanked = |at: usize| file.code.as_bytes()[at] == b' ';
    let quotes: Vec<usize> =
        file.text.match_indices('"').map(|(at, _)| at).filter(|at| is_blanked(*at)).collect();
    let pairs: Vec<(usize, usize)> = quotes.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().map(|(open, close)| (open, &file.text[open + 1..close]))
}
