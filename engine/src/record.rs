//! The canonical record of what enters an action, whose BLAKE3 is the action's key.
//! Knows neither where inputs come from (inputs.rs) nor how two records are told apart for people (why/).
//!
//! # What enters a key
//!
//! | part | enters as | example of a change it catches |
//! |---|---|---|
//! | schema of this record | number | another way to write records |
//! | rule and its version | name, number | the rule plans other commands |
//! | step | name | |
//! | builtin and its version | name, number | our cpio writer writes other bytes |
//! | parameters after interpolation | text by name | `compress: xz` → `zstd` |
//! | argv, script | list of texts, text | |
//! | declared environment | text, *unset*, or keyed hash of a secret | unset → empty |
//! | tools | owning packages and their installed closure with versions; else digest; `rustc -vV` | libc6-dev upgraded |
//! | in a container, in place of tools | the image's id: the digest of its configuration, which names its layers | another image |
//! | workspace files | path, digest, size, execute bit; symlink target | an edited line, `chmod +x` |
//! | upstream outputs | digest by input name, never the upstream's key | early cut-off |
//! | platform, executor, sandbox policy, limits | text | `executor: host` |
//! | a source that is a working copy (`--override`) | that it is one, never where | `--override` was given, or no longer |
//! | declared outputs | name, path, kind | |
//!
//! Never: the target's name, absolute paths of the host, user, host name, time, number of jobs, mtimes,
//! MAKEFLAGS, the order in which a directory is read.
//!
//! The bytes: magic, then the parts sorted, each as tag, length-prefixed name, tagged value. One writer and one
//! reader, both below; `why` compares decoded records, so explanation and key cannot drift apart.

use std::collections::BTreeMap;

use mosbuild_cache::Digest;

/// The policy of a step that reads a working copy in place of the declared source.
pub const OVERRIDE: &str = "override";

/// The policy that names the image of a step's container, in place of the host's tools.
pub const IMAGE: &str = "image";

/// Version of the record's bytes.
pub const SCHEMA: u32 = 1;
const MAGIC: &[u8; 8] = b"mosact\0\x01";

/// One named component of a record. The order of variants is the order in the bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// [`SCHEMA`].
    Schema,
    /// The rule's name.
    Rule,
    /// The rule's version.
    RuleVersion,
    /// The step's name within its target.
    Step,
    /// Name of the builtin, for steps that run in-process.
    Builtin,
    /// Its version.
    BuiltinVersion,
    /// `x86_64-linux`.
    Platform,
    /// `sandbox`, `container` or `host`.
    Executor,
    /// A limit or freedom of the sandbox, by name.
    Policy(String),
    /// Program and arguments.
    Argv,
    /// Script text.
    Script,
    /// A parameter of the rule, by name.
    Param(String),
    /// A declared environment variable, by name.
    Env(String),
    /// A tool, by name.
    Tool(String),
    /// A workspace file, by input name and path.
    File(String, String),
    /// An input taken as a whole (an upstream output, a large folder), by input name.
    Input(String),
    /// A declared output, by name.
    Output(String),
}

/// The value of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Declared, but has no value (differs from the empty text).
    Unset,
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// A number.
    Number(u64),
    /// A keyed hash standing for a secret text.
    Secret(Digest),
    /// A file's content, size in bytes and execute bit.
    File {
        /// Content.
        digest: Digest,
        /// Bytes.
        size: u64,
        /// Owner's execute bit.
        executable: bool,
    },
    /// A tree by the digest of its encoding.
    Tree(Digest),
    /// A symlink's target.
    Link(String),
    /// Packages with versions, sorted by name.
    Packages(Vec<(String, String)>),
}

/// What enters an action, as a sorted map of named components.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionRecord {
    /// The components.
    pub parts: BTreeMap<Part, Value>,
}

/// Bytes that are not a record.
#[derive(Debug, thiserror::Error)]
#[error("not an action record: {0}")]
pub struct BadRecord(&'static str);

impl ActionRecord {
    /// Sets a component.
    pub fn set(&mut self, part: Part, value: Value) {
        self.parts.insert(part, value);
    }

    /// Sets a text component.
    pub fn text(&mut self, part: Part, text: impl Into<String>) {
        self.set(part, Value::Text(text.into()));
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.parts.len() * 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.parts.len() as u64).to_le_bytes());
        for (part, value) in &self.parts {
            let (tag, first, second) = part.name();
            out.push(tag);
            put(&mut out, first.as_bytes());
            put(&mut out, second.as_bytes());
            value.write(&mut out);
        }
        // A build keeps one of each step.
        out.shrink_to_fit();
        out
    }

    /// The action's key: BLAKE3 of exactly [`ActionRecord::encode`]'s bytes.
    pub fn key(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads bytes written by [`ActionRecord::encode`]; refuses any other, including unsorted parts.
    pub fn decode(bytes: &[u8]) -> Result<ActionRecord, BadRecord> {
        let mut r = Reader { rest: bytes };
        if r.take(MAGIC.len())? != MAGIC {
            return Err(BadRecord("wrong magic or version"));
        }
        let count = r.number()?;
        let mut parts = BTreeMap::new();
        let mut last = None;
        for _ in 0..count {
            let tag = r.byte()?;
            let (first, second) = (r.text()?, r.text()?);
            let part = Part::from_name(tag, first, second)?;
            if last.as_ref().is_some_and(|l| *l >= part) {
                return Err(BadRecord("parts out of order"));
            }
            last = Some(part.clone());
            let value = Value::read(&mut r)?;
            parts.insert(part, value);
        }
        match r.rest.is_empty() {
            true => Ok(ActionRecord { parts }),
            false => Err(BadRecord("trailing bytes")),
        }
    }
}

impl Part {
    fn name(&self) -> (u8, &str, &str) {
        match self {
            Part::Schema => (0, "", ""),
            Part::Rule => (1, "", ""),
            Part::RuleVersion => (2, "", ""),
            Part::Step => (3, "", ""),
            Part::Builtin => (4, "", ""),
            Part::BuiltinVersion => (5, "", ""),
            Part::Platform => (6, "", ""),
            Part::Executor => (7, "", ""),
            Part::Policy(n) => (8, n, ""),
            Part::Argv => (9, "", ""),
            Part::Script => (10, "", ""),
            Part::Param(n) => (11, n, ""),
            Part::Env(n) => (12, n, ""),
            Part::Tool(n) => (13, n, ""),
            Part::File(input, path) => (14, input, path),
            Part::Input(n) => (15, n, ""),
            Part::Output(n) => (16, n, ""),
        }
    }

    fn from_name(tag: u8, first: String, second: String) -> Result<Part, BadRecord> {
        let part = match tag {
            0 => Part::Schema,
            1 => Part::Rule,
            2 => Part::RuleVersion,
            3 => Part::Step,
            4 => Part::Builtin,
            5 => Part::BuiltinVersion,
            6 => Part::Platform,
            7 => Part::Executor,
            8 => Part::Policy(first.clone()),
            9 => Part::Argv,
            10 => Part::Script,
            11 => Part::Param(first.clone()),
            12 => Part::Env(first.clone()),
            13 => Part::Tool(first.clone()),
            14 => Part::File(first.clone(), second.clone()),
            15 => Part::Input(first.clone()),
            16 => Part::Output(first.clone()),
            _ => return Err(BadRecord("unknown part")),
        };
        match part.name() == (tag, &first, &second) {
            true => Ok(part),
            false => Err(BadRecord("a part with a name it cannot have")),
        }
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Unset => out.push(0),
            Value::Text(t) => {
                out.push(1);
                put(out, t.as_bytes());
            }
            Value::List(list) => {
                out.push(2);
                out.extend_from_slice(&(list.len() as u64).to_le_bytes());
                list.iter().for_each(|t| put(out, t.as_bytes()));
            }
            Value::Number(n) => {
                out.push(3);
                out.extend_from_slice(&n.to_le_bytes());
            }
            Value::Secret(d) => {
                out.push(4);
                out.extend_from_slice(&d.0);
            }
            Value::File { digest, size, executable } => {
                out.push(5);
                out.extend_from_slice(&digest.0);
                out.extend_from_slice(&size.to_le_bytes());
                out.push(u8::from(*executable));
            }
            Value::Tree(d) => {
                out.push(6);
                out.extend_from_slice(&d.0);
            }
            Value::Link(t) => {
                out.push(7);
                put(out, t.as_bytes());
            }
            Value::Packages(list) => {
                out.push(8);
                out.extend_from_slice(&(list.len() as u64).to_le_bytes());
                for (name, version) in list {
                    put(out, name.as_bytes());
                    put(out, version.as_bytes());
                }
            }
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Value, BadRecord> {
        Ok(match r.byte()? {
            0 => Value::Unset,
            1 => Value::Text(r.text()?),
            2 => {
                let count = r.number()?;
                Value::List((0..count).map(|_| r.text()).collect::<Result<_, _>>()?)
            }
            3 => Value::Number(r.number()?),
            4 => Value::Secret(r.digest()?),
            5 => {
                let (digest, size) = (r.digest()?, r.number()?);
                let executable = match r.byte()? {
                    0 => false,
                    1 => true,
                    _ => return Err(BadRecord("bad flag")),
                };
                Value::File { digest, size, executable }
            }
            6 => Value::Tree(r.digest()?),
            7 => Value::Link(r.text()?),
            8 => {
                let count = r.number()?;
                let pair = |r: &mut Reader<'_>| Ok((r.text()?, r.text()?));
                Value::Packages((0..count).map(|_| pair(r)).collect::<Result<_, BadRecord>>()?)
            }
            _ => return Err(BadRecord("unknown value")),
        })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BadRecord> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(BadRecord("truncated"))?;
        self.rest = rest;
        Ok(head)
    }
    fn byte(&mut self) -> Result<u8, BadRecord> {
        Ok(self.take(1)?[0])
    }
    fn number(&mut self) -> Result<u64, BadRecord> {
        let bytes = self.take(8)?.try_into().map_err(|_| BadRecord("truncated"))?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn digest(&mut self) -> Result<Digest, BadRecord> {
        Ok(Digest(self.take(32)?.try_into().map_err(|_| BadRecord("truncated"))?))
    }
    fn text(&mut self) -> Result<String, BadRecord> {
        let len = usize::try_from(self.number()?).map_err(|_| BadRecord("truncated"))?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| BadRecord("not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest() -> impl Strategy<Value = Digest> {
        any::<[u8; 32]>().prop_map(Digest)
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            Just(Part::Schema),
            Just(Part::Rule),
            Just(Part::RuleVersion),
            Just(Part::Argv),
            Just(Part::Script),
            "[a-z]{0,4}".prop_map(Part::Param),
            "[A-Z]{0,4}".prop_map(Part::Env),
            "[a-z]{0,4}".prop_map(Part::Tool),
            ("[a-z]{0,3}", "[a-z/]{0,6}").prop_map(|(a, b)| Part::File(a, b)),
            "[a-z]{0,4}".prop_map(Part::Input),
            "[a-z]{0,4}".prop_map(Part::Output),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Unset),
            ".{0,8}".prop_map(Value::Text),
            prop::collection::vec(".{0,4}", 0..4).prop_map(Value::List),
            any::<u64>().prop_map(Value::Number),
            digest().prop_map(Value::Secret),
            (digest(), any::<u64>(), any::<bool>()).prop_map(|(digest, size, executable)| Value::File {
                digest,
                size,
                executable
            }),
            digest().prop_map(Value::Tree),
            ".{0,8}".prop_map(Value::Link),
            prop::collection::vec((".{0,4}", ".{0,4}"), 0..3).prop_map(Value::Packages),
        ]
    }

    fn record() -> impl Strategy<Value = ActionRecord> {
        prop::collection::btree_map(part(), value(), 0..12).prop_map(|parts| ActionRecord { parts })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(r in record()) {
            prop_assert_eq!(ActionRecord::decode(&r.encode()).unwrap(), r);
        }

        #[test]
        fn keys_are_equal_exactly_when_records_are(a in record(), b in record()) {
            prop_assert_eq!(a.key() == b.key(), a == b);
        }

        #[test]
        fn any_changed_part_changes_the_key(r in record(), p in part(), v in value()) {
            let mut changed = r.clone();
            changed.set(p, v);
            prop_assert_eq!(changed.key() == r.key(), changed == r);
        }

        #[test]
        fn damaged_bytes_never_panic_and_never_pass_for_another_record(
            r in record(), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let mut bytes = r.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = ActionRecord::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ActionRecord::decode(&bytes);
        }
    }

    #[test]
    fn unset_differs_from_empty() {
        let mut unset = ActionRecord::default();
        unset.set(Part::Env("A".into()), Value::Unset);
        let mut empty = ActionRecord::default();
        empty.text(Part::Env("A".into()), "");
        assert_ne!(unset.key(), empty.key());
    }
}
