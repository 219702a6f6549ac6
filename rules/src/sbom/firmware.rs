//! Firmware files of an image with their licences, from the excerpt of WHENCE that is placed beside them. Does not know who
//! asks.

use std::collections::BTreeMap;

use mosbuild_cache::{Node, Store, Tree};
use mosbuild_formats::whence::Whence;

use super::{Bill, Error, Kind, Part, sha256};

/// Adds each file below lib/firmware; gives their ids.
pub fn files(bill: &mut Bill, store: &Store, tree: &Tree, owner: &str) -> Result<Vec<String>, Error> {
    let mut licences: BTreeMap<String, (String, String)> = BTreeMap::new();
    for entry in tree.iter().filter(|e| e.path.name() == b"WHENCE") {
        let Node::File { digest, .. } = entry.node else { continue };
        let Ok(whence) = Whence::parse(&String::from_utf8_lossy(&store.read(&digest)?)) else { continue };
        for file in &whence.files {
            let words = whence.licence(file).map(|licence| match licence.title.is_empty() {
                // It stands there itself, on the lines below.
                true => written_out(whence.sections.get(file.section).map_or("", |s| s.text.as_str())),
                false => licence.title.clone(),
            });
            let version = file.version.clone().unwrap_or_default();
            licences.insert(file.path.clone(), (words.unwrap_or_default(), version));
        }
    }
    let mut all = Vec::new();
    for entry in tree.iter() {
        let Node::File { digest, .. } = entry.node else { continue };
        let path = entry.path.to_string();
        let Some(name) = path.strip_prefix("lib/firmware/") else { continue };
        // A file that the kernel expands has a suffix that WHENCE does not know.
        let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
        let (licence, version) =
            licences.get(name).or_else(|| licences.get(plain)).cloned().unwrap_or_default();
        let mut part = Part::new(Kind::Firmware, format!("{owner}#{name}"), name, version);
        part.licence = licence;
        part.hashes.insert("BLAKE3", digest.hex());
        part.hashes.insert("SHA-256", sha256(&store.read(&digest)?));
        all.push(bill.add(part));
    }
    Ok(all)
}

/// The words of a section behind `Licence:`, in one line.
fn written_out(section: &str) -> String {
    let starts = |line: &str| line.starts_with("Licence:") || line.starts_with("License:");
    let lines = section.lines().skip_while(|line| !starts(line)).skip(1);
    let words = lines.flat_map(|line| line.trim_start_matches([' ', '\t', '*']).split_whitespace());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_that_is_written_out_is_taken_as_it_stands() {
        let section = "Driver: r8169 - x\n\nFile: rtl_nic/a.fw\n\nLicence:\n * Copyright X\n *\n * Permission is\n * granted.\n";
        assert_eq!(written_out(section), "Copyright X Permission is granted.");
        assert_eq!(written_out("File: a\n"), "");
    }
}
