//! A Makefile of the kernel, read for the objects that it makes: assignments to `obj-…` and the lists that they name,
//! under the conditions that are plain symbols. Knows make's lines and variables, none of its functions.

use std::collections::BTreeSet;

/// An object that an assignment names.
pub(super) struct Object {
    /// Without `.o` and folder; `*` for what is not known.
    pub name: String,
    /// Where its list begins.
    pub line: usize,
    /// Symbols that must be on.
    pub symbols: Vec<String>,
}

/// What a Makefile says.
#[derive(Default)]
pub(super) struct Read {
    pub objects: Vec<Object>,
    /// Symbols that it sets itself.
    pub set: BTreeSet<String>,
}

/// Lists of objects, of which modules come from the first only; a part of the kernel has a name all the same.
const LISTS: [&str; 2] = ["obj-", "lib-"];
/// How deep lists name other lists, and expressions hold others.
const DEPTH: usize = 6;
/// Words of one file's lists, beyond which it is not one of the kernel's.
const MOST: usize = 100_000;

/// An assignment with the symbols under which it counts.
struct Assignment<'a> {
    line: usize,
    variable: &'a str,
    value: &'a str,
    symbols: Vec<String>,
}

pub(super) fn read(text: &str) -> Read {
    let lines = logical_lines(text);
    let assignments = assignments(&lines);
    let mut read = Read::default();
    let mut left = MOST;
    for a in &assignments {
        if let Some(symbol) = a.variable.strip_prefix("CONFIG_") {
            read.set.insert(symbol.to_owned());
        }
        let Some(condition) = LISTS.iter().find_map(|list| a.variable.strip_prefix(list)) else { continue };
        let Some(own) = condition_of(condition) else { continue };
        let mut symbols = a.symbols.clone();
        symbols.extend(own);
        let mut made = Vec::new();
        objects(a.value, a.line, &symbols, &assignments, (DEPTH, &mut left), &mut made);
        // What is always part of the kernel is no module, so nobody names it: it may stay without a name.
        let part = condition == "y" || !a.variable.starts_with(LISTS[0]);
        made.retain(|object| !(part && object.name == "*"));
        read.objects.append(&mut made);
    }
    if left == 0 {
        // What was not looked at may be anything.
        read.objects.push(Object { name: "*".into(), line: 1, symbols: Vec::new() });
    }
    read
}

/// The symbols that `y`, `m` or an expression behind `obj-` needs; `None` for a list that kbuild never looks at.
fn condition_of(text: &str) -> Option<Vec<String>> {
    let value = text.trim_start_matches(['y', 'm']);
    if text.is_empty() || !value.is_empty() && !value.starts_with('$') {
        return None;
    }
    // An expression may need more than that: it is not known, so that more is taken for possible.
    Some(symbol_of(text, DEPTH).map(str::to_owned).into_iter().collect())
}

/// The one symbol without which `$(CONFIG_X)`, or a `subst` on it, is neither y nor m.
fn symbol_of(text: &str, depth: usize) -> Option<&str> {
    let inner = reference(text)?;
    if let Some(symbol) = inner.strip_prefix("CONFIG_") {
        return is_symbol(symbol).then_some(symbol);
    }
    let arguments = inner.strip_prefix("subst")?.trim_start();
    symbol_of(arguments.splitn(3, ',').nth(2)?.trim(), depth.checked_sub(1)?)
}

/// What is in `$(…)` or `${…}`, if the text is that and nothing else.
fn reference(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('$')?;
    let (open, close) = match rest.chars().next()? {
        '(' => ('(', ')'),
        '{' => ('{', '}'),
        _ => return None,
    };
    let inner = rest.strip_prefix(open)?.strip_suffix(close)?;
    let mut depth = 0_usize;
    for c in inner.chars() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth = depth.checked_sub(1)?;
        }
    }
    (depth == 0).then_some(inner)
}

fn is_symbol(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Adds the objects that a value names; `line` and `symbols` are those of the list that is asked for.
fn objects(
    value: &str,
    line: usize,
    symbols: &[String],
    all: &[Assignment<'_>],
    (depth, left): (usize, &mut usize),
    out: &mut Vec<Object>,
) {
    for word in words(value) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        if let Some(name) = reference(word).filter(|name| !name.contains(['$', ' ', '\t', ':', ','])) {
            let mut known = false;
            for a in all {
                let Some(more) = stands_for(a.variable, name) else { continue };
                known = true;
                if depth > 0 {
                    let symbols: Vec<String> =
                        symbols.iter().cloned().chain(a.symbols.iter().cloned()).chain(more).collect();
                    objects(a.value, a.line, &symbols, all, (depth - 1, left), out);
                }
            }
            if known && depth > 0 {
                continue;
            }
        }
        let name = vague(word);
        let name = name.rsplit('/').next().unwrap_or_default();
        // A folder: what is in it has a Makefile of its own.
        if name.is_empty() {
            continue;
        }
        let name = match name.strip_suffix(".o") {
            Some(name) => name,
            None if name.ends_with('*') => name,
            None => continue,
        };
        let mut symbols = symbols.to_vec();
        symbols.sort_unstable();
        symbols.dedup();
        out.push(Object { name: name.to_owned(), line, symbols });
    }
}

/// Whether a variable as assigned may be the one that is named: `a-$(CONFIG_X)` is `a-y` and `a-m` if X is on.
fn stands_for(assigned: &str, named: &str) -> Option<Option<String>> {
    if assigned == named {
        return Some(None);
    }
    let at = assigned.find("$(CONFIG_")?;
    let end = at + assigned[at..].find(')')? + 1;
    let symbol = symbol_of(&assigned[at..end], 0)?;
    let value = named.strip_prefix(&assigned[..at])?.strip_suffix(&assigned[end..])?;
    matches!(value, "y" | "m").then(|| Some(symbol.to_owned()))
}

/// A word with `*` for each reference in it.
fn vague(word: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_usize;
    let mut chars = word.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '$' if depth == 0 => {
                out.push('*');
                // A name of one letter needs no brackets.
                if !matches!(chars.peek(), Some('(' | '{')) {
                    chars.next();
                }
            }
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            '%' | '?' | '[' | ']' if depth == 0 => out.push('*'),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// The words of a value, a reference with blanks in it being one.
fn words(value: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let separates = move |c: char| {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && c.is_whitespace()
    };
    value.split(separates).filter(|word| !word.is_empty())
}

/// Lines with their continuations and without comments; the number is that of the first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, first)) = lines.next() {
        let mut joined = first.to_owned();
        while joined.ends_with('\\') {
            joined.pop();
            joined.push(' ');
            match lines.next() {
                Some((_, next)) => joined.push_str(next),
                None => break,
            }
        }
        if let Some(comment) = comment(&joined) {
            joined.truncate(comment);
        }
        out.push((at + 1, joined));
    }
    out
}

/// Where a comment begins.
fn comment(line: &str) -> Option<usize> {
    line.match_indices('#').map(|(at, _)| at).find(|at| !line[..*at].ends_with('\\'))
}

/// All assignments, each with the symbols of the conditions around it.
fn assignments(lines: &[(usize, String)]) -> Vec<Assignment<'_>> {
    let mut out = Vec::new();
    let mut conditions: Vec<Option<&str>> = Vec::new();
    let mut defining = false;
    for (at, line) in lines {
        let trimmed = line.trim();
        let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        match word {
            "endef" => defining = false,
            _ if defining => {}
            "define" => defining = true,
            "ifdef" | "ifeq" | "ifneq" | "ifndef" => conditions.push(condition(word, rest.trim())),
            "else" => {
                let (word, rest) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
                if let Some(top) = conditions.last_mut() {
                    *top = condition(word, rest.trim());
                }
            }
            "endif" => {
                conditions.pop();
            }
            _ => {
                if let Some((variable, value)) = assignment(trimmed) {
                    let symbols = conditions.iter().flatten().map(|s| (*s).to_owned()).collect();
                    out.push(Assignment { line: *at, variable, value, symbols });
                }
            }
        }
    }
    out
}

/// The symbol that must be on for a condition to hold, where it says no more than that.
fn condition<'a>(word: &str, rest: &'a str) -> Option<&'a str> {
    if word == "ifdef" {
        return rest.strip_prefix("CONFIG_").filter(|symbol| is_symbol(symbol));
    }
    let inner = rest.strip_prefix('(')?.strip_suffix(')')?;
    let (a, b) = inner.rsplit_once(',')?;
    let (a, b) = (a.trim(), b.trim());
    match (word, a, b) {
        ("ifeq", expression, "y" | "m") | ("ifeq", "y" | "m", expression) | ("ifneq", expression, "") => {
            symbol_of(expression, DEPTH)
        }
        _ => None,
    }
}

/// Variable and value of an assignment; `None` for anything else, a rule's own variables included.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let mut line = line;
    for word in ["export", "override", "private"] {
        if let Some(rest) = line.strip_prefix(word).filter(|rest| rest.starts_with(char::is_whitespace)) {
            line = rest.trim_start();
        }
    }
    let mut depth = 0_usize;
    for (at, c) in line.char_indices() {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            '=' if depth == 0 => {
                let variable = line[..at].trim_end_matches(['+', ':', '?', '!']).trim_end();
                let one = words(variable).count() == 1;
                return one.then(|| (variable, line[at + 1..].trim()));
            }
            ':' if depth == 0 && !line[at..].trim_start_matches(':').starts_with('=') => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> Vec<String> {
        let of = |o: &Object| {
            let symbols =
                if o.symbols.is_empty() { String::new() } else { format!(" {}", o.symbols.join(" ")) };
            format!("{} {}{symbols}", o.line, o.name)
        };
        read(text).objects.iter().map(of).collect()
    }

    #[test]
    fn lists_in_all_their_spellings() {
        let text = "# obj-y += no.o\nobj-$(CONFIG_A)\t+= a.o b/ sub/c.o # d.o\nobj-${CONFIG_B} := e.o \\\n\tf.o\n\
                    obj-m=g.o\n obj-y\t+= h.o\n\tobj-y += i.o\nobj- := dummy.o\nobj-n += never.o\nobj-objs := p.o\n\
                    obj-$(subst m,y,$(CONFIG_C)) += j.o\nobj-$(subst y,$(CONFIG_D),$(CONFIG_E)) += k.o\n\
                    obj-$(CONFIG_A)$(CONFIG_B) += l.o\nlib-$(CONFIG_L) += m.o\nobj-y += $(PARTS)\n\
                    a-objs := part.o\na-$(CONFIG_A) += part2.o\n$(obj)/x.o: obj-y += n.o\nall: ; obj-y = o.o\n";
        assert_eq!(
            objects(text),
            ["2 a A", "2 c A", "3 e B", "3 f B", "5 g", "6 h", "7 i", "11 j C", "12 k E", "13 l", "14 m L"]
        );
    }

    #[test]
    fn lists_that_name_lists() {
        let text = "sfp-obj-$(CONFIG_SFP) += sfp-bus.o\nobj-y += $(sfp-obj-y) $(sfp-obj-m)\n\
                    more := x.o $(deep-y)\ndeep-y := y.o\nobj-$(CONFIG_A) += $(more)\n\
                    loop = $(loop) z.o\nobj-$(CONFIG_B) += $(loop)\nobj-$(CONFIG_C) += $(nowhere) a-$(n).o $(addsuffix .o,q)\n";
        let read = objects(text);
        assert_eq!(read[..2], ["1 sfp-bus SFP", "1 sfp-bus SFP"]);
        assert_eq!(read[2..4], ["3 x A", "4 y A"]);
        // A list that names itself ends somewhere, as something not known.
        assert!(read.contains(&"6 z B".to_owned()) && read.contains(&"6 * B".to_owned()), "{read:?}");
        assert_eq!(read[read.len() - 3..], ["8 * C", "8 a-* C", "8 * C"]);
    }

    #[test]
    fn conditions_that_are_one_symbol_count() {
        let text = "ifdef CONFIG_A\nobj-y += a.o\nifeq ($(CONFIG_B),y)\nobj-$(CONFIG_C) += b.o\nelse\nobj-y += c.o\nendif\n\
                    else\nobj-y += d.o\nendif\nifneq ($(CONFIG_E),)\nobj-y += e.o\nendif\n\
                    ifeq ($(CONFIG_F)$(CONFIG_G),yy)\nobj-y += f.o\nelse ifeq ($(CONFIG_G),m)\nobj-y += g.o\nendif\n\
                    ifndef CONFIG_H\nobj-y += h.o\nendif\nobj-y += i.o\nendif\nobj-y += j.o\n\
                    define X\nobj-y += no.o\nendef\nobj-y += k.o\n";
        assert_eq!(
            objects(text),
            [
                "2 a A",
                "4 b A B C",
                "6 c A",
                "9 d",
                "12 e E",
                "15 f",
                "17 g G",
                "20 h",
                "22 i",
                "24 j",
                "28 k"
            ]
        );
    }

    #[test]
    fn an_endless_file_stays_bounded() {
        let mut text = String::from("a0 = x.o y.o\n");
        for n in 1..40 {
            text.push_str(&format!("a{n} = $(a{}) $(a{}) $(a{})\n", n - 1, n - 1, n - 1));
        }
        text.push_str(&format!("obj-y += {}\n", "$(a5) ".repeat(10_000)));
        let last = read(&text).objects.pop().unwrap();
        assert_eq!((last.name.as_str(), last.symbols.len()), ("*", 0));
        read(&"obj-y += $(".repeat(10_000));
        read(&format!("obj-{}", "$(subst y,".repeat(100_000)));
        let deep = 100_000;
        read(&format!("obj-{}$(CONFIG_A){} += x.o", "$(subst y,m,".repeat(deep), ")".repeat(deep)));
        read("obj-$");
        read("obj-y += $");
    }
}
