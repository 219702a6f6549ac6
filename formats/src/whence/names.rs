//! Names as WHENCE writes them: quotes, escapes, arrows, and paths that must stay below lib/firmware.
//! Does not know what a name stands for.

/// The longest path that Linux takes.
const LONGEST: usize = 4095;

/// A name with its quotes and escapes taken off.
pub(super) fn one(text: &str) -> Result<String, String> {
    let mut parts = parts(text, false)?;
    Ok(parts.pop().unwrap_or_default())
}

/// Name and target of `name -> target`.
pub(super) fn arrow(text: &str) -> Result<(String, String), String> {
    let parts = parts(text, true)?;
    match <[String; 2]>::try_from(parts) {
        Ok([name, target]) if !name.is_empty() && !target.is_empty() => Ok((name, target)),
        _ => Err("a link is written as NAME -> TARGET".into()),
    }
}

/// The names around arrows, blanks around them left out.
fn parts(text: &str, arrows: bool) -> Result<Vec<String>, String> {
    let mut parts = vec![Vec::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let meant = match c {
            '"' => {
                quoted = !quoted;
                continue;
            }
            '-' if arrows && !quoted && chars.peek() == Some(&'>') => {
                chars.next();
                parts.push(Vec::new());
                continue;
            }
            '\\' => (chars.next().ok_or("it ends in a backslash")?, true),
            c => (c, quoted),
        };
        if let Some(part) = parts.last_mut() {
            part.push(meant);
        }
    }
    if quoted {
        return Err("a quote has no end".into());
    }
    Ok(parts.iter().map(|part| trimmed(part)).collect())
}

/// Without the blanks at both ends that are neither quoted nor escaped.
fn trimmed(part: &[(char, bool)]) -> String {
    let kept = |(c, meant): &(char, bool)| *meant || !c.is_whitespace();
    let from = part.iter().position(kept).unwrap_or(part.len());
    let to = part.iter().rposition(kept).map_or(from, |at| at + 1);
    part[from..to].iter().map(|(c, _)| *c).collect()
}

/// A path of one file below lib/firmware, without `.` and empty components.
pub(super) fn file(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("it names nothing".into());
    }
    if name.ends_with('/') {
        return Err("it names a folder, where one file is expected".into());
    }
    let mut kept = Vec::new();
    for part in checked(name)? {
        match part {
            ".." => return Err("it leads out of the firmware folder, or might".into()),
            part => kept.push(part),
        }
    }
    match kept.is_empty() {
        true => Err("it names the firmware folder itself".into()),
        false => Ok(kept.join("/")),
    }
}

/// Where a link leads that says `target`, from the top that `link` is relative to. What leads out of it, or to a folder
/// that the link lies in, is refused, with the reason.
pub fn target(link: &str, target: &str) -> Result<String, String> {
    let mut at: Vec<&str> = link.split('/').collect();
    at.pop();
    for part in checked(target)? {
        match part {
            ".." if at.is_empty() => return Err("it leads out of the firmware folder".into()),
            ".." => drop(at.pop()),
            part => at.push(part),
        }
    }
    let target = at.join("/");
    let inside = |folder: &str| link.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    if target.is_empty() {
        Err("it leads to the firmware folder itself".into())
    } else if target == link {
        Err("it leads to itself".into())
    } else if inside(&target) {
        Err("it leads to a folder that it lies in".into())
    } else if target.len() > LONGEST {
        Err(format!("its target is longer than {LONGEST} bytes"))
    } else {
        Ok(target)
    }
}

/// The components of a relative path, but `.` and empty ones.
fn checked(path: &str) -> Result<impl Iterator<Item = &str>, String> {
    if path.starts_with('/') {
        return Err("it is absolute; paths are relative to the firmware folder".into());
    }
    if path.chars().any(char::is_control) {
        return Err("it has a control character".into());
    }
    if path.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    Ok(path.split('/').filter(|part| !matches!(*part, "" | ".")))
}

/// The files that a licence refers to: `See A, B and C for details`, names that begin as such files do, and a title
/// that is nothing but a path.
pub(super) fn licence_texts(title: &str, text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let name = name.trim_matches(|c: char| c.is_whitespace() || ",;:()\"'`<>".contains(c));
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = name.strip_prefix("LICENSES/").unwrap_or(name);
        if name.contains(char::is_whitespace) {
            return;
        }
        if let Ok(path) = file(name)
            && !found.contains(&path)
        {
            found.push(path);
        }
    };
    for (at, _) in text.match_indices("See ") {
        let rest = &text[at + 4..];
        if let Some(end) = rest.find(" for details") {
            rest[..end].split(", ").flat_map(|names| names.split(" and ")).for_each(&mut add);
        }
    }
    for word in text.split_whitespace() {
        let word = word.trim_start_matches(['(', '"', '\'', '`', '<']);
        if ["LICENCE.", "LICENSE.", "LICENSES/"].iter().any(|start| word.starts_with(start)) {
            add(word);
        }
    }
    if title.contains('/') && !title.contains("//") {
        add(title);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_arrows() {
        assert_eq!(one(" a/b.bin ").unwrap(), "a/b.bin");
        assert_eq!(one("\"a b.txt\"").unwrap(), "a b.txt");
        assert_eq!(one(r"a\ b\\c\ ").unwrap(), r"a b\c ");
        assert_eq!(one("a b  c.txt").unwrap(), "a b  c.txt");
        assert_eq!(arrow("a -> ../b").unwrap(), ("a".into(), "../b".into()));
        assert_eq!(arrow("\"a -> b\"->c\\ d").unwrap(), ("a -> b".into(), "c d".into()));
        assert_eq!(arrow(r"a-\>b -> c").unwrap(), ("a->b".into(), "c".into()));
        for bad in ["a", "a ->", "-> a", "a -> b -> c", "a > b"] {
            assert_eq!(arrow(bad).unwrap_err(), "a link is written as NAME -> TARGET", "{bad}");
        }
        assert_eq!(one("\"a").unwrap_err(), "a quote has no end");
        assert_eq!(one("a\\").unwrap_err(), "it ends in a backslash");
    }

    #[test]
    fn paths_stay_below_the_firmware_folder() {
        assert_eq!(file("a//./b.bin").unwrap(), "a/b.bin");
        for bad in ["", "/etc/passwd", "../../etc/passwd", "a/../b", "a/", ".", "a\u{1}b"] {
            assert!(file(bad).is_err(), "{bad:?}");
        }
        assert!(file(&"x".repeat(5000)).is_err());
        assert_eq!(target("a/b/l", "../../c/d").unwrap(), "c/d");
        assert_eq!(target("l", "a/b/").unwrap(), "a/b");
        for bad in ["../../../x", "/etc/passwd", "../..", "l", ".", "..", "../b"] {
            assert!(target("a/b/l", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn licences_name_their_texts() {
        let texts = |text: &str| licence_texts(text.lines().next().unwrap(), &text.replace('\n', " "));
        assert_eq!(
            texts("Redistributable. See LICENCE.rtlwifi_firmware.txt for details."),
            ["LICENCE.rtlwifi_firmware.txt"]
        );
        assert_eq!(
            texts("Redistributable. See LICENSE.qcom and qcom/NOTICE.txt for details"),
            ["LICENSE.qcom", "qcom/NOTICE.txt"]
        );
        assert_eq!(texts("GPLv2 or later. See GPL-2, GPL-3 and MIT for details."), ["GPL-2", "GPL-3", "MIT"]);
        assert_eq!(
            texts("Redistributable. See LICENCE.Marvell for details.  8687 images"),
            ["LICENCE.Marvell"]
        );
        assert_eq!(texts("ath10k/hw3.0/notice.txt"), ["ath10k/hw3.0/notice.txt"]);
        assert_eq!(texts("Redistributable.\n\nthe text is in LICENSE.x (see there)"), ["LICENSE.x"]);
        assert_eq!(texts("See LICENSES/MIT for details"), ["MIT"]);
        for none in ["Unknown", "Dual GPLv2/MPL", "See http://a.b/c for terms", "See /etc/passwd for details"]
        {
            assert_eq!(texts(none), [""; 0], "{none}");
        }
    }
}
