//! Profiles in the format of pprof (docs/spec/controlplane.md 7.1).

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, SystemTime},
};

use super::pb::profile::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType};

/// A kind of value and the unit of the value, such as `("cpu", "nanoseconds")`.
pub(crate) type Kind = (&'static str, &'static str);

/// What a profile says of itself.
#[derive(Clone, Debug)]
pub(crate) struct ProfileHead {
    /// The kinds of a sample's two values.
    pub(crate) kinds: [Kind; 2],
    /// The kind of the distance between two samples, and the distance.
    pub(crate) period: (Kind, u64),
    /// When the profile was begun.
    pub(crate) taken: SystemTime,
    /// How long the profile took. Zero for a state at one time.
    pub(crate) duration: Duration,
    /// The addresses of the program's code.
    pub(crate) code: Range<usize>,
    /// An expression for names of functions that readers leave out, with all that these call. May be empty.
    pub(crate) left_out: &'static str,
    /// Further remarks, such as what is missing.
    pub(crate) comments: Vec<String>,
}

/// A function that an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedFunction {
    /// Demangled.
    pub(crate) name: String,
    /// The source file, empty if unknown.
    pub(crate) file: String,
    /// The line of the address in the file, 0 if unknown.
    pub(crate) line: u32,
}

/// Stacks with values, as a message. `R` names the functions of an address, the innermost of inlined ones first.
pub(crate) struct ProfileBuilder<R> {
    profile: Profile,
    texts: HashMap<String, i64>,
    locations: HashMap<usize, u64>,
    functions: HashMap<(String, String), u64>,
    code: Range<usize>,
    resolve: R,
}

// === impl ProfileBuilder ===

impl<R: FnMut(usize) -> Vec<NamedFunction>> ProfileBuilder<R> {
    /// A profile without samples.
    pub(crate) fn new(head: ProfileHead, resolve: R) -> Self {
        let profile = Profile {
            string_table: vec![String::new()],
            time_nanos: head.taken.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos),
            duration_nanos: nanos(head.duration),
            period: i64::try_from(head.period.1).unwrap_or(i64::MAX),
            ..Profile::default()
        };
        let texts = HashMap::from([(String::new(), 0)]);
        let (locations, functions) = (HashMap::new(), HashMap::new());
        let mut builder = Self { profile, texts, locations, functions, code: head.code, resolve };
        builder.profile.sample_type = head.kinds.map(|kind| builder.kind(kind)).to_vec();
        builder.profile.period_type = Some(builder.kind(head.period.0));
        builder.profile.drop_frames = builder.text(head.left_out);
        builder.profile.comment = head.comments.iter().map(|comment| builder.text(comment)).collect();
        builder.profile.mapping = vec![Mapping {
            id: 1,
            memory_start: builder.code.start as u64,
            memory_limit: builder.code.end as u64,
            filename: builder.text("warren"),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
            ..Mapping::default()
        }];
        builder
    }

    /// Adds a stack with its values and the thread that it is of, if that is known. `stack` has the innermost address
    /// first, and each address lies within the instruction that was under way.
    pub(crate) fn add(&mut self, stack: &[usize], values: [i64; 2], thread: Option<&str>) {
        let location_id = stack.iter().map(|address| self.location(*address)).collect();
        let label = thread.map(|thread| Label {
            key: self.text("thread"),
            str: self.text(thread),
            ..Label::default()
        });
        let label = label.into_iter().collect();
        self.profile.sample.push(Sample { location_id, value: values.to_vec(), label });
    }

    /// The message.
    pub(crate) fn finish(self) -> Profile {
        self.profile
    }

    fn kind(&mut self, (name, unit): Kind) -> ValueType {
        ValueType { r#type: self.text(name), unit: self.text(unit) }
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(index) = self.texts.get(text) {
            return *index;
        }
        let index = i64::try_from(self.profile.string_table.len()).unwrap_or_default();
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), index);
        index
    }

    fn location(&mut self, address: usize) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let line = (self.resolve)(address).into_iter().map(|function| self.line(function)).collect();
        let id = self.profile.location.len() as u64 + 1;
        let mapping_id = u64::from(self.code.contains(&address));
        self.profile.location.push(Location {
            id,
            mapping_id,
            address: address as u64,
            line,
            is_folded: false,
        });
        self.locations.insert(address, id);
        id
    }

    fn line(&mut self, NamedFunction { name, file, line }: NamedFunction) -> Line {
        let known = self.functions.get(&(name.clone(), file.clone())).copied();
        let function_id = known.unwrap_or_else(|| {
            let id = self.profile.function.len() as u64 + 1;
            let (shown, system_name) = (self.text(&readable(&name)), self.text(&name));
            let filename = self.text(&file);
            let function = Function { id, name: shown, system_name, filename, ..Function::default() };
            self.profile.function.push(function);
            self.functions.insert((name, file), id);
            id
        });
        Line { function_id, line: i64::from(line), column: 0 }
    }
}

/// What a block of `size` bytes stands for, as objects and bytes, if a block is drawn for every `period` bytes by chance:
/// a block is drawn with the probability 1 - e^(-size / period).
pub(crate) fn stands_for(size: usize, period: usize) -> (f64, f64) {
    let drawn = -(-(size.max(1) as f64) / period.max(1) as f64).exp_m1();
    (1.0 / drawn, size as f64 / drawn)
}

/// A function's name without the trait whose method it is: `<A as B>::c` is `A::c`. pprof leaves out what is in angle
/// brackets, so nothing but `::c` would be left.
fn readable(name: &str) -> String {
    let Some(inside) = name.strip_prefix('<') else { return name.to_owned() };
    let (mut depth, mut ends, mut before) = (1_usize, inside.len(), ' ');
    let mut end_of_type = None;
    for (at, symbol) in inside.char_indices() {
        match symbol {
            '<' => depth += 1,
            // An arrow is no bracket.
            '>' if before != '-' => depth -= 1,
            ' ' if depth == 1 && inside.get(at..).is_some_and(|rest| rest.starts_with(" as ")) => {
                end_of_type = end_of_type.or(Some(at));
            }
            _ => {}
        }
        if depth == 0 {
            ends = at;
            break;
        }
        before = symbol;
    }
    let of_type = inside.get(..end_of_type.unwrap_or(ends)).unwrap_or_default();
    format!("{}{}", readable(of_type), inside.get(ends + 1..).unwrap_or_default())
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
