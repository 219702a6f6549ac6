//! What a difference most likely comes from, by its values and by what is known of where the two files were made.
//! A guess, and worded as one.

use super::{Difference, Place, What, is_time};

/// Seconds by which a time may lie beside the build that it is taken for.
const SLACK: u64 = 2;

/// What is known of the two builds; each pair is first and second.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// From when to when each ran, seconds since 1970.
    pub times: [(u64, u64); 2],
    /// Paths that each was made in.
    pub paths: [Vec<String>; 2],
    /// Names of the host.
    pub hosts: [String; 2],
    /// Names and numbers of the user.
    pub users: [Vec<String>; 2],
    /// Processors that each could use.
    pub processors: [usize; 2],
}

/// A guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In a word: `time`, `path`, `hostname`, `user`, `order`, `processors`, `random`, `compression`, `unknown`.
    pub kind: &'static str,
    /// In a sentence, with what helps.
    pub text: String,
}

impl Reason {
    fn new(kind: &'static str, text: impl Into<String>) -> Reason {
        Reason { kind, text: text.into() }
    }
}

const TIME: &str = "take the time from SOURCE_DATE_EPOCH instead of the clock";

impl Difference {
    /// What it most likely comes from.
    pub fn reason(&self, around: &Surroundings) -> Reason {
        match &self.what {
            What::Order { of, .. } => {
                let text = format!(
                    "an order: the same {of} in another order, from a folder read unsorted, a hash map, or jobs that end in another order; sort them"
                );
                return Reason::new("order", text);
            }
            What::Compression => {
                let text = "the compression: the number of threads, or a name or time that the format keeps; fix its threads and options";
                return Reason::new("compression", text);
            }
            What::Field { name, first, second } => {
                if *name == "mtime" {
                    let near = self.is_near(first, second, around);
                    let said = if near { "the time of the build" } else { "a time of a file" };
                    let text = format!(
                        "a time: the mtime is {said}; set it to SOURCE_DATE_EPOCH (tar --mtime, touch -d)"
                    );
                    return Reason::new("time", text);
                }
                if ["uid", "gid", "user name", "group name"].contains(name) {
                    return Reason::new(
                        "user",
                        "the user that built it; set the owner (tar --owner=0 --group=0)",
                    );
                }
                if *name == "mode" {
                    return Reason::new(
                        "umask",
                        "the umask, or a mode that was never set; set it (chmod, install -m)",
                    );
                }
                if ["inode number", "link count"].contains(name) {
                    return Reason::new(
                        "order",
                        "the file system's numbers; renumber them (cpio --reproducible)",
                    );
                }
            }
            _ => {}
        }
        let (first, second) = self.raw();
        let (one, two) = (String::from_utf8_lossy(&first), String::from_utf8_lossy(&second));
        let seen = |names: &[Vec<String>; 2]| {
            let has = |text: &str, names: &[String]| {
                names.iter().find(|n| n.len() > 3 && text.contains(n.as_str())).cloned()
            };
            has(&one, &names[0]).or_else(|| has(&two, &names[1]))
        };
        if let Some(path) = seen(&around.paths) {
            let text = format!(
                "the path of the build ({path}); pass -ffile-prefix-map, or write paths relative to the source"
            );
            return Reason::new("path", text);
        }
        if let Some(host) = seen(&[vec![around.hosts[0].clone()], vec![around.hosts[1].clone()]]) {
            return Reason::new("hostname", format!("the name of the host ({host})"));
        }
        if self.is_near(&one, &two, around) || self.has_binary_time(around) {
            return Reason::new("time", format!("the time of the build; {TIME}"));
        }
        if let Some(user) = seen(&around.users) {
            return Reason::new("user", format!("the user that built it ({user})"));
        }
        if is_time(&one) && is_time(&two) {
            return Reason::new("time", format!("a time; {TIME}"));
        }
        if self.equals_pair(&one, &two, around.processors.map(|n| n as u64)) {
            return Reason::new("processors", "the number of processors or jobs; fix it");
        }
        if let Some(Place::Section { name, .. }) =
            self.places.iter().rev().find(|p| matches!(p, Place::Section { .. }))
        {
            if name == ".note.gnu.build-id" {
                let text = "a build id that follows from what is not in the file any more, or is random (--build-id=uuid); use --build-id=sha1 or none";
                return Reason::new("random", text);
            }
            if name.starts_with(".debug") {
                return Reason::new(
                    "unknown",
                    "its debug information differs: strip it, or look at what the names are made of",
                );
            }
            if [".text", ".rela.dyn", ".eh_frame"].contains(&name.as_str()) {
                let text = "code laid out in another order, by what a script generates without a fixed order or by the number of jobs; \
                     for Rust try CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1";
                return Reason::new("order", text);
            }
        }
        match &self.what {
            What::Missing { .. } => Reason::new(
                "unknown",
                "a name that is random or made of a time or path, or a step that does not always make it",
            ),
            _ => Reason::new(
                "random",
                "something random, or an order that is not fixed: /dev/urandom, a temporary name, an address, a hash map",
            ),
        }
    }

    /// What both have there, as it is.
    fn raw(&self) -> (Vec<u8>, Vec<u8>) {
        match &self.what {
            What::Bytes(excerpt) => (excerpt.first.clone(), excerpt.second.clone()),
            What::Missing { name, in_first, .. } => match in_first {
                true => (name.clone().into_bytes(), Vec::new()),
                false => (Vec::new(), name.clone().into_bytes()),
            },
            _ => {
                let (first, second) = self.values();
                (first.into_bytes(), second.into_bytes())
            }
        }
    }

    /// Whether both have a number of seconds, milliseconds or nanoseconds that is the time of their build.
    fn is_near(&self, one: &str, two: &str, around: &Surroundings) -> bool {
        let near = |text: &str, (from, to): (u64, u64)| {
            numbers(text).any(|(digits, value)| {
                let seconds = match digits {
                    9..=11 => value,
                    12..=14 => value / 1_000,
                    15..=17 => value / 1_000_000,
                    18..=19 => value / 1_000_000_000,
                    _ => return false,
                };
                (from.saturating_sub(SLACK)..=to + SLACK).contains(&seconds)
            })
        };
        near(one, around.times[0]) && near(two, around.times[1])
    }

    /// Whether the differing byte is part of a number that is the time of the build, of four or eight bytes in either order.
    fn has_binary_time(&self, around: &Surroundings) -> bool {
        let What::Bytes(excerpt) = &self.what else { return false };
        let near = |bytes: &[u8], (from, to): (u64, u64)| {
            let fits = |n: u64| (from.saturating_sub(SLACK)..=to + SLACK).contains(&n);
            let word: Option<[u8; 4]> = bytes.try_into().ok();
            word.is_some_and(|w| fits(u32::from_le_bytes(w).into()) || fits(u32::from_be_bytes(w).into()))
        };
        (excerpt.at.saturating_sub(3)..=excerpt.at).any(|from| {
            let word = |side: &[u8], times| side.get(from..from + 4).is_some_and(|w| near(w, times));
            word(&excerpt.first, around.times[0]) && word(&excerpt.second, around.times[1])
        })
    }

    /// Whether the numbers that differ are these.
    fn equals_pair(&self, one: &str, two: &str, pair: [u64; 2]) -> bool {
        let differing = numbers(one).zip(numbers(two)).find(|(a, b)| a != b);
        pair[0] != pair[1] && differing.is_some_and(|((_, a), (_, b))| [a, b] == pair)
    }
}

/// The decimal numbers in a text, with how many digits each has.
fn numbers(text: &str) -> impl Iterator<Item = (usize, u64)> + '_ {
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.filter_map(|run| Some((run.len(), run.parse().ok()?)))
}
