//! Durations, sizes, dates and lines as people read them. Pure functions.

use mosbuild_engine::run_record::civil;

/// `0.4 s`, `12.3 s`, `2m 05s`, `1h 04m`.
pub fn duration(millis: u64) -> String {
    // Rounded first, so that 59.96 s is not written as 60.0 s.
    let tenths = (millis + 50) / 100;
    let seconds = (millis + 500) / 1000;
    match seconds {
        _ if tenths < 600 => format!("{}.{} s", tenths / 10, tenths % 10),
        0..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// As [`duration`], of something that is still going on: whole seconds.
pub fn elapsed(millis: u64) -> String {
    match millis / 1000 {
        seconds @ 0..60 => format!("{seconds} s"),
        _ => duration(millis),
    }
}

/// A duration that is a guess: no more digits than it deserves.
pub fn rough(millis: u64) -> String {
    match (millis + 500) / 1000 {
        0 => "1 s".into(),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..600 => format!("{}m {:02}s", seconds / 60, seconds / 10 % 6 * 10),
        seconds @ 600..3600 => format!("{}m", seconds / 60),
        seconds => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// The seconds of the summary line: two decimals while they matter, one later.
pub fn summary_seconds(millis: u64) -> String {
    let seconds = millis as f64 / 1000.0;
    if millis < 10_000 { format!("{seconds:.2}") } else { format!("{seconds:.1}") }
}

/// `0 B`, `812 B`, `7.3 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Seconds since 1970 as `2026-11-23 20:27:13`, UTC.
pub fn utc(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let s = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// How long ago: `12 s ago`, `5 min ago`, `3 h ago`, `2 days ago`.
pub fn ago(then: u64, now: u64) -> String {
    match now.saturating_sub(then) {
        s @ 0..60 => format!("{s} s ago"),
        s @ 60..3600 => format!("{} min ago", s / 60),
        s @ 3600..86_400 => format!("{} h ago", s / 3600),
        s @ 86_400..172_800 => format!("{} day ago", s / 86_400),
        s => format!("{} days ago", s / 86_400),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs())
}

/// `1 target`, `2 targets`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// One line of a program's output as it may be drawn: without escape sequences and control characters, what
/// a carriage return has overwritten left out.
pub fn clean_line(line: &str) -> String {
    let line = line.trim_end_matches(['\r', '\n']);
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // CSI: parameters up to a final byte. OSC: up to BEL or ESC \.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                Some(']') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// At most `width` characters, the last of them … if something was cut off.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// A size as people write it: `512M`, `1GiB`, `1.5G`, or a number of MiB; in MiB.
pub fn parse_mebibytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1.0,
        "g" | "gb" | "gib" => 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0,
        "k" | "kb" | "kib" => 1.0 / 1024.0,
        _ => return Err(format!("{text:?} is not a size; write 512M or 1GiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a size; write 512M or 1GiB"))?;
    match (number * factor).round() {
        mebibytes if (1.0..=67_108_864.0).contains(&mebibytes) => Ok(mebibytes as u64),
        _ => Err(format!("{text} is out of range; between 1M and 64T is possible")),
    }
}

/// The first of several names, and how many there are beside them.
pub fn few<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration(0), "0.0 s");
        assert_eq!(duration(449), "0.4 s");
        assert_eq!(duration(12_345), "12.3 s");
        assert_eq!(duration(59_949), "59.9 s");
        assert_eq!(duration(59_960), "1m 00s");
        assert_eq!(duration(125_000), "2m 05s");
        assert_eq!(duration(3_599_600), "1h 00m");
        assert_eq!(duration(3_840_000), "1h 04m");
        assert_eq!(elapsed(59_999), "59 s");
        assert_eq!(elapsed(61_000), "1m 01s");
        assert_eq!(rough(300), "1 s");
        assert_eq!(rough(137_000), "2m 10s");
        assert_eq!(rough(1_137_000), "18m");
    }

    #[test]
    fn the_summary_has_one_or_two_decimals() {
        assert_eq!(summary_seconds(7), "0.01");
        assert_eq!(summary_seconds(9_994), "9.99");
        assert_eq!(summary_seconds(10_000), "10.0");
        assert_eq!(summary_seconds(754_321), "754.3");
    }

    #[test]
    fn sizes_step_up_before_four_digits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(size(7_654_321), "7.3 MiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn dates_and_ages() {
        assert_eq!(utc(1_735_689_600), "2025-01-01 00:00:00");
        assert_eq!(ago(100, 160), "1 min ago");
        assert_eq!(ago(200, 100), "0 s ago");
        assert_eq!(ago(0, 90_000), "1 day ago");
    }

    #[test]
    fn lines_lose_what_would_move_the_cursor() {
        assert_eq!(clean_line("\x1b[1;31mred\x1b[0m\tend\r"), "red end");
        assert_eq!(clean_line("10%\r50%\r100%"), "100%");
        assert_eq!(clean_line("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\ rest"), "link rest");
        assert_eq!(clean_line("\x1b[12"), "");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn memory_sizes() {
        assert_eq!(parse_mebibytes("512M"), Ok(512));
        assert_eq!(parse_mebibytes("1.5GiB"), Ok(1536));
        assert_eq!(parse_mebibytes("256"), Ok(256));
        assert!(parse_mebibytes("lots").is_err());
        assert!(parse_mebibytes("0").is_err());
        assert!(parse_mebibytes("9e99").is_err());
    }

    #[test]
    fn many_names_are_counted() {
        let names = ["a", "b", "c", "d", "e"];
        assert_eq!(few(&names), "a, b, c and 2 more");
        assert_eq!(few(&names[..2]), "a, b");
        assert_eq!(few(&names[..0]), "");
    }
}
