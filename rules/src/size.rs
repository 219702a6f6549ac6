//! Sizes as people write them: `20MiB`, `512M`, `1000000`. Knows no rule.

/// Bytes of a written size. `K`, `M`, `G` and `KiB`, `MiB`, `GiB` are powers of 1024; `kB`, `MB`, `GB` of 1000.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let exact = number.parse::<f64>().ok()? * factor as f64;
            (exact.is_finite() && exact >= 0.0 && exact < u64::MAX as f64).then_some(exact as u64)
        }
    }
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        assert_eq!(super::bytes("20MiB"), Some(20 << 20));
        assert_eq!(super::bytes("512M"), Some(512 << 20));
        assert_eq!(super::bytes("1.5 GiB"), Some(3 << 29));
        assert_eq!(super::bytes("10MB"), Some(10_000_000));
        for bad in ["", "x", "10XB", "-1", "99999999999999999999", "1e400G", "."] {
            assert_eq!(super::bytes(bad), None, "{bad}");
        }
        assert_eq!(super::human(20 << 20), "20.0 MiB");
    }
}
