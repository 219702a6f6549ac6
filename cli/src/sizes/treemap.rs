//! Areas as rectangles that fill one, as square as can be: the squarified treemap of Bruls, Huizing and van Wijk (2000).
//! Knows numbers only.

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left.
    pub x: f64,
    /// Top.
    pub y: f64,
    /// Width.
    pub w: f64,
    /// Height.
    pub h: f64,
}

/// A rectangle for each number, in their order, which is best from large to small. Their areas are to each other as the
/// numbers are.
pub fn squarified(numbers: &[f64], within: Rect) -> Vec<Rect> {
    let total: f64 = numbers.iter().sum();
    if total <= 0.0 || within.w <= 0.0 || within.h <= 0.0 {
        return vec![Rect { w: 0.0, h: 0.0, ..within }; numbers.len()];
    }
    let scale = within.w * within.h / total;
    let areas: Vec<f64> = numbers.iter().map(|n| n * scale).collect();
    let (mut out, mut left, mut at) = (Vec::with_capacity(areas.len()), within, 0);
    while at < areas.len() {
        // As many as make the row along the shorter side squarer.
        let side = left.w.min(left.h);
        let mut end = at + 1;
        while end < areas.len() && worst(&areas[at..=end], side) <= worst(&areas[at..end], side) {
            end += 1;
        }
        left = lay(&areas[at..end], left, &mut out);
        at = end;
    }
    out
}

/// The most elongated of a row along a side: its longer edge by its shorter one.
fn worst(row: &[f64], side: f64) -> f64 {
    let sum: f64 = row.iter().sum();
    let depth = if side > 0.0 { sum / side } else { 0.0 };
    if depth <= 0.0 {
        return f64::INFINITY;
    }
    let ratio = |area: f64| {
        let length = area / depth;
        (length / depth).max(depth / length)
    };
    row.iter().map(|area| ratio(*area)).fold(1.0, f64::max)
}

/// Lays a row along the shorter side; gives what is left.
fn lay(row: &[f64], at: Rect, out: &mut Vec<Rect>) -> Rect {
    let sum: f64 = row.iter().sum();
    let wide = at.w >= at.h;
    let side = if wide { at.h } else { at.w };
    let depth = if side > 0.0 { sum / side } else { 0.0 };
    let mut reached = 0.0;
    for area in row {
        let length = if depth > 0.0 { area / depth } else { 0.0 };
        out.push(match wide {
            true => Rect { x: at.x, y: at.y + reached, w: depth, h: length },
            false => Rect { x: at.x + reached, y: at.y, w: length, h: depth },
        });
        reached += length;
    }
    match wide {
        true => Rect { x: at.x + depth, w: (at.w - depth).max(0.0), ..at },
        false => Rect { y: at.y + depth, h: (at.h - depth).max(0.0), ..at },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WITHIN: Rect = Rect { x: 10.0, y: 20.0, w: 600.0, h: 400.0 };

    proptest! {
        #[test]
        fn the_whole_is_filled_by_shares(mut numbers in prop::collection::vec(0.0f64..1e9, 1..200)) {
            numbers.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = numbers.iter().sum();
            let rects = squarified(&numbers, WITHIN);
            prop_assert_eq!(rects.len(), numbers.len());
            prop_assume!(total > 0.0);
            for (n, r) in numbers.iter().zip(&rects) {
                let share = n / total * WITHIN.w * WITHIN.h;
                prop_assert!((r.w * r.h - share).abs() <= 1e-6 * WITHIN.w * WITHIN.h, "{n} {r:?}");
                prop_assert!(r.x >= WITHIN.x - 1e-6 && r.y >= WITHIN.y - 1e-6);
                prop_assert!(r.x + r.w <= WITHIN.x + WITHIN.w + 1e-6 && r.y + r.h <= WITHIN.y + WITHIN.h + 1e-6);
            }
        }
    }

    #[test]
    fn the_example_of_the_paper() {
        let rects = squarified(&[6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0], Rect { x: 0.0, y: 0.0, w: 6.0, h: 4.0 });
        assert_eq!((rects[0].w, rects[0].h), (3.0, 2.0));
        assert_eq!((rects[1].w, rects[1].h), (3.0, 2.0));
        assert!((rects[2].w - 12.0 / 7.0).abs() < 1e-9 && (rects[2].h - 7.0 / 3.0).abs() < 1e-9, "{rects:?}");
        assert_eq!(squarified(&[0.0], WITHIN)[0].w, 0.0);
    }
}
