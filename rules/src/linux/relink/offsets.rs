//! Objects that are compiled with addresses of vmlinux inside (arch/x86/boot/compressed/misc.o reads voffset.h): where in
//! them the addresses are, found by compiling them with others. Knows no instruction and no ELF: bytes are compared.
//!
//! A changed archive moves the end of vmlinux, and compiling misc.c, which has the decompressor, takes longer than the
//! link. Its object differs in a few numbers only. Each is a sum of addresses: two samples with addresses that are chosen so
//! that each sum is another say which, and the second has to agree with the first in every byte of the object.

use std::fmt::Write;

/// The lines of voffset.h: `#define VO__end _AC(0xffffffff81a1c000,UL)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Name and the lower half of the address, by address. The upper half has all bits set.
    addresses: Vec<(String, u32)>,
}

/// What is added to the addresses of a sample, in each of their bytes: differences of two are others than these.
const ADDED: [[u32; 4]; SAMPLES] = [[1, 3, 9, 27], [2, 5, 13, 33]];
/// How many samples there are.
pub const SAMPLES: usize = 2;
/// Numbers below are written in fewer bytes, or otherwise.
const LEAST: u32 = 0x1_0000;

/// A number of four bytes inside of an object, least byte first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Where it begins.
    pub at: usize,
    /// What it is with the addresses that the object was compiled with.
    pub value: u32,
    /// The address that is in it, and the one that is taken from it.
    pub plus: Option<usize>,
    /// See `plus`.
    pub minus: Option<usize>,
}

impl Offsets {
    /// None where the text is not of this form.
    pub fn parse(text: &str) -> Option<Offsets> {
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
            let digits = value.strip_prefix("_AC(0xffffffff")?.strip_suffix(",UL)")?;
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let address = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8 && plain)?;
            Some((name.to_owned(), address))
        };
        let mut addresses = text.lines().map(line).collect::<Option<Vec<_>>>()?;
        addresses.sort_by_key(|(_, address)| *address);
        (1..=ADDED[0].len()).contains(&addresses.len()).then_some(Offsets { addresses })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, address) in &self.addresses {
            let _ = writeln!(text, "#define {name} _AC(0xffffffff{address:08x},UL)");
        }
        text
    }

    /// The text of a sample, one of [`SAMPLES`].
    pub fn sample(&self, n: usize) -> String {
        let moved = self.addresses.iter().zip(ADDED[n]);
        let addresses = moved.map(|((name, address), by)| (name.clone(), address.wrapping_add(spread(by))));
        Offsets { addresses: addresses.collect() }.text()
    }

    /// Where `object` has numbers that follow the addresses, by what was compiled with each sample's. None where the
    /// objects differ in another way.
    pub fn sites(&self, object: &[u8], samples: &[Vec<u8>; SAMPLES]) -> Option<Vec<Site>> {
        if samples.iter().any(|sample| sample.len() != object.len()) {
            return None;
        }
        let mut sites: Vec<Site> = Vec::new();
        let mut at = 0;
        while at < object.len() {
            if object[at] == samples[0][at] {
                at += 1;
                continue;
            }
            let site = self.site(object, &samples[0], at)?;
            at += 4;
            sites.push(site);
        }
        for (n, sample) in samples.iter().enumerate() {
            let mut patched = object.to_vec();
            for site in &sites {
                let moved = self.moved(site, n);
                patched[site.at..site.at + 4].copy_from_slice(&site.value.wrapping_add(moved).to_le_bytes());
            }
            if patched != *sample {
                return None;
            }
        }
        Some(sites)
    }

    /// The number at a place where a sample differs.
    fn site(&self, object: &[u8], sample: &[u8], at: usize) -> Option<Site> {
        let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let (value, other) = (number(object)?, number(sample)?);
        let one = || std::iter::once(None).chain((0..self.addresses.len()).map(Some));
        let sums = one().flat_map(|plus| one().map(move |minus| Site { at, value, plus, minus }));
        let mut sums = sums.filter(|site| self.moved(site, 0) == other.wrapping_sub(value));
        // Smaller ones are not written in four bytes, and what looks like an address may be a relocation.
        sums.next().filter(|site| value >= LEAST && (site.plus.is_some() || site.minus.is_some()))
    }

    /// By how much a number differs in a sample.
    fn moved(&self, site: &Site, n: usize) -> u32 {
        let added = |which: Option<usize>| which.map_or(0, |which| spread(ADDED[n][which]));
        added(site.plus).wrapping_sub(added(site.minus))
    }

    /// The shell function `patch_offsets`, which writes the addresses of `header` into these objects. It fails, with
    /// nothing changed, where a compiler might write one of the numbers in another way.
    pub fn script(&self, header: &str, objects: &[(String, Vec<Site>)]) -> String {
        let mut w = String::new();
        let _ = writeln!(w, "patch_offsets() {{\nwhile read -r _ name value; do\n  case $value in");
        w.push_str("  '_AC(0xffffffff'????????',UL)') value=${value#'_AC(0xffffffff'} value=${value%',UL)'} ;;\n  *) return 1 ;;\n  esac\n");
        w.push_str("  case $name in\n");
        for (name, _) in &self.addresses {
            let _ = writeln!(w, "  {name}) {name}=$((0x$value)) ;;");
        }
        let _ = writeln!(w, "  *) return 1 ;;\n  esac\ndone < {header}");
        let name = |which: Option<usize>| which.and_then(|which| self.addresses.get(which));
        let sites = objects.iter().flat_map(|(path, sites)| sites.iter().map(move |site| (path, site)));
        let (mut pokes, mut last) = (String::new(), None);
        for (n, (path, site)) in sites.enumerate() {
            let mut sum = site.value.to_string();
            if let Some((name, base)) = name(site.plus) {
                let _ = write!(sum, " + {name} - {base}");
            }
            if let Some((name, base)) = name(site.minus) {
                let _ = write!(sum, " - {name} + {base}");
            }
            let _ = writeln!(w, "n{n}=$((({sum}) & 0xffffffff))\nsame_form {} $n{n} || return 1", site.value);
            if last.replace(path) != Some(path) {
                let _ = writeln!(pokes, "say POKE {path}");
            }
            let _ = writeln!(pokes, "poke {path} {} $n{n} &&", site.at);
        }
        w.push_str(&pokes);
        w.push_str(":\n}\n");
        w
    }
}

/// The functions of [`Offsets::script`]. Compilers have other instructions for powers of two and their neighbours.
pub const FUNCTIONS: &str = r#"same_form() { # BEFORE NOW
[ "$2" -ge 65536 ] && [ $(($1 >> 31)) = $(($2 >> 31)) ] || return 1
for near in $(($2 - 1)) "$2" $(($2 + 1)); do
  [ $((near & (near - 1))) != 0 ] || return 1
done
}
poke() { # FILE AT NUMBER
# shellcheck disable=SC2059
printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $(($3 & 255)) $(($3 >> 8 & 255)) $(($3 >> 16 & 255)) $(($3 >> 24 & 255)))" |
  dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
patch_offsets() { return 1; }
"#;

/// A byte in all four.
const fn spread(byte: u32) -> u32 {
    byte * 0x0101_0101
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "#define VO___bss_start _AC(0xffffffff81972000,UL)\n\
        #define VO___start_rodata _AC(0xffffffff81600000,UL)\n\
        #define VO__end _AC(0xffffffff81a1c000,UL)\n\
        #define VO__text _AC(0xffffffff81000000,UL)\n";

    /// An object as a compiler would make it: total size, the end, and size up to bss, between other bytes.
    fn object(header: &str) -> Vec<u8> {
        let offsets = Offsets::parse(header).unwrap();
        let of = |name: &str| offsets.addresses.iter().find(|(n, _)| n == name).unwrap().1;
        let mut bytes = vec![0x48, 0x81, 0xfa];
        bytes.extend((of("VO__end") - of("VO__text")).to_le_bytes());
        bytes.extend([0x77, 0x12, 0x48, 0xc7, 0xc0]);
        bytes.extend(of("VO__end").to_le_bytes());
        bytes.extend((of("VO___bss_start") - of("VO__text")).to_le_bytes());
        bytes.push(0xc3);
        bytes
    }

    fn sites() -> (Offsets, Vec<Site>) {
        let offsets = Offsets::parse(HEADER).unwrap();
        let samples = [object(&offsets.sample(0)), object(&offsets.sample(1))];
        let sites = offsets.sites(&object(HEADER), &samples).unwrap();
        (offsets, sites)
    }

    /// Runs the script in a folder of its own; whether it succeeded, and the object after it.
    fn patched(header: &str) -> (bool, Vec<u8>) {
        let (offsets, sites) = sites();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("misc.o"), object(HEADER)).unwrap();
        std::fs::write(dir.path().join("voffset.h"), header).unwrap();
        let script = format!(
            "say() {{ :; }}\n{FUNCTIONS}{}patch_offsets",
            offsets.script("voffset.h", &[("misc.o".into(), sites)])
        );
        let run =
            std::process::Command::new("sh").args(["-euc", &script]).current_dir(&dir).output().unwrap();
        assert!(run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
        (run.status.success(), std::fs::read(dir.path().join("misc.o")).unwrap())
    }

    fn moved(bss: u32, end: u32) -> String {
        let header = HEADER.replace("81972000", &format!("{bss:08x}"));
        header.replace("81a1c000", &format!("{end:08x}"))
    }

    #[test]
    fn numbers_are_found_with_the_addresses_they_follow() {
        let (offsets, sites) = sites();
        let names: Vec<(usize, Option<&str>, Option<&str>)> = sites
            .iter()
            .map(|site| {
                let name = |which: Option<usize>| which.map(|which| offsets.addresses[which].0.as_str());
                (site.at, name(site.plus), name(site.minus))
            })
            .collect();
        let expected = [
            (3, Some("VO__end"), Some("VO__text")),
            (12, Some("VO__end"), None),
            (16, Some("VO___bss_start"), Some("VO__text")),
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn objects_that_differ_in_another_way_are_compiled() {
        let offsets = Offsets::parse(HEADER).unwrap();
        let base = object(HEADER);
        let samples = || [object(&offsets.sample(0)), object(&offsets.sample(1))];
        let mut longer = samples();
        longer[1].push(0x90);
        assert_eq!(offsets.sites(&base, &longer), None);
        let mut other = samples();
        other[1][8] ^= 1;
        assert_eq!(offsets.sites(&base, &other), None);
        let mut halved = samples();
        for (n, sample) in halved.iter_mut().enumerate() {
            sample[12] = sample[12].wrapping_add(n as u8 + 1);
        }
        assert_eq!(offsets.sites(&base, &halved), None);
        assert_eq!(Offsets::parse("#define VO__end _AC(0x81a1c000,UL)\n"), None);
        assert_eq!(Offsets::parse(""), None);
    }

    #[test]
    fn what_a_compiler_might_write_otherwise_is_not_patched() {
        // A total size that is a power of two, and its neighbours.
        for end in [0x8200_0000_u32, 0x8200_0001, 0x81ff_ffff] {
            assert_eq!(patched(&moved(0x8197_3000, end)), (false, object(HEADER)), "{end:x}");
        }
        let unknown = format!("{HEADER}#define VO_more _AC(0xffffffff81a1c000,UL)\n");
        assert_eq!(patched(&unknown), (false, object(HEADER)));
        let low = HEADER.replace("ffffffff81a1c000", "0000000081a1c000");
        assert_eq!(patched(&low), (false, object(HEADER)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn a_patched_object_is_the_compiled_one(bss in 0x8190_1000_u32..0x8300_0000, more in 0x1_0000_u32..0x80_0000) {
            let header = moved(bss, bss + more);
            let (done, bytes) = patched(&header);
            prop_assert_eq!(bytes, if done { object(&header) } else { object(HEADER) });
            let total: u32 = bss + more - 0x8100_0000;
            let near = |n: u32| n.wrapping_sub(1).is_power_of_two() || n.is_power_of_two() || (n + 1).is_power_of_two();
            let rare = [total, bss - 0x8100_0000, bss + more].into_iter().any(near);
            prop_assert!(done != rare);
        }
    }
}
