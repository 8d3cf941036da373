//! docs/settings.md, made from the variables.

#[cfg(test)]
mod tests;

use std::fmt::Write;

use super::var::{Section, Var};

const HEAD: &str = "\
# Settings

All settings are environment variables. A value that cannot be used ends the start with an error that names the
variable; all wrong values are named at once. Unknown variables are ignored. Variables that the contract does not know
begin with `WARREN_`.

| Form | Values |
|---|---|
| boolean | `true` or `false` |
| number | plain decimal digits |
| duration | `1h30m`, `90s`, `500ms`, or plain seconds |
| address | `host`, `host:port` or `https://host:port`; the port is 443 unless it is given |
| processors | `2`, `1.5` or `500m`, rounded up |

Where several variables share a row, each of them has that meaning. The first one that is set counts where the row says
so. The code declares each variable beside its reader, in `src/protocols/config`, and this file is made from that:
`WARREN_BLESS=1 cargo test --test documents` writes it anew.
";

/// The whole document.
pub(super) fn settings(sections: &[Section]) -> String {
    let mut text = HEAD.to_owned();
    for section in sections {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n## {}\n\n| Variable | Form | Default | Meaning |\n|---|---|---|---|\n",
            section.title
        );
        for (at, var) in section.vars.iter().enumerate() {
            let is_first = !section.vars.iter().take(at).any(|before| says_the_same(before, var));
            let same = section.vars.iter().filter(|other| is_first && says_the_same(other, var));
            let names: Vec<String> = same.map(|var| format!("`{}`", var.name)).collect();
            if !names.is_empty() {
                let (names, default) = (names.join(", "), shown(var.default));
                let _ = writeln!(text, "| {names} | {} | {default} | {} |", var.form, var.help);
            }
        }
    }
    text
}

fn says_the_same(a: &Var, b: &Var) -> bool {
    (a.form, a.default, a.help) == (b.form, b.default, b.help)
}

/// A default: a value, or words about it.
fn shown(default: &str) -> String {
    match default {
        "" => "unset".to_owned(),
        words if words.contains(' ') => words.to_owned(),
        value => format!("`{value}`"),
    }
}
