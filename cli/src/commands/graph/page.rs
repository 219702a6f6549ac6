//! The graph as one HTML page: a drawing in columns, what is needed to the left of what needs it, with each target's
//! state. Fetches nothing and runs no script.

use std::collections::HashMap;
use std::fmt::Write;

use mosbuild_engine::load::Loaded;

use super::{Standings, closure, copy, fill, needs};
use crate::standing::State;

/// Of a box, and between boxes, in pixels.
const HEIGHT: usize = 40;
const GAP: usize = 16;
/// Between columns, for the lines.
const AISLE: usize = 70;
/// Of a letter, about.
const LETTER: usize = 8;

/// A target's box.
struct Place {
    x: usize,
    y: usize,
    width: usize,
}

pub(super) fn html(loaded: &Loaded, roots: &[u32], standings: &Standings) -> String {
    let closure = closure(loaded, roots);
    let (places, width, height) = layout(loaded, &closure);
    let mut boxes = String::new();
    let mut lines = String::new();
    for &t in &closure {
        let target = &loaded.targets[t as usize];
        let state = standings.get(&target.name).map(|s| &s.state);
        let about = state.map(State::text).filter(|text| !text.is_empty()).unwrap_or_default();
        let Place { x, y, width, .. } = places[&t];
        let _ = writeln!(
            boxes,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" class=\"name\">{}</text><text x=\"{}\" y=\"{}\">{}</text></g>",
            text(&format!("{} ({}) {about}", target.name, target.rule)),
            state.map_or("#ffffff", fill),
            x + 10,
            y + 17,
            text(&target.name),
            x + 10,
            y + 32,
            text(&target.rule),
        );
        for (need, _) in needs(loaded, t) {
            let from = &places[&need];
            let (x1, y1) = (from.x + from.width, from.y + HEIGHT / 2);
            let (x2, y2) = (x, y + HEIGHT / 2);
            let bend = (x2.saturating_sub(x1) / 2).max(AISLE / 2);
            let _ = writeln!(
                lines,
                "<path d=\"M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}\"/>",
                x1 + bend,
                x2.saturating_sub(bend)
            );
        }
    }
    let rows: String = closure
        .iter()
        .map(|&t| {
            let target = &loaded.targets[t as usize];
            let state = standings.get(&target.name).map(|s| s.state.text()).unwrap_or_default();
            let state = format!("{state}{}", copy(loaded, t, ", ")).trim_start_matches(", ").to_owned();
            let needs: Vec<&str> =
                needs(loaded, t).iter().map(|(n, _)| loaded.targets[*n as usize].name.as_str()).collect();
            let cells = [&target.name, &target.rule, &state, &needs.join(", ")];
            let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", text(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<style>\n\
         body {{ font: 14px sans-serif; margin: 1.5em; color: #222; background: #fff; }}\n\
         svg {{ display: block; max-width: 100%; height: auto; }}\n\
         rect {{ stroke: #777; }}\npath {{ fill: none; stroke: #999; }}\n\
         text {{ font-size: 11px; fill: #444; }}\ntext.name {{ font-size: 13px; fill: #111; }}\n\
         table {{ border-collapse: collapse; margin-top: 1.5em; }}\n\
         td, th {{ text-align: left; padding: 0.15em 1em 0.15em 0; border-bottom: 1px solid #ddd; }}\n\
         </style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         {lines}{boxes}</svg>\n<table>\n\
         <tr><th>target</th><th>rule</th><th>state</th><th>needs</th></tr>\n{rows}</table>\n</body>\n</html>\n",
        title = text(loaded.project.as_deref().unwrap_or("mosbuild")),
    )
}

/// Each target in the column behind the last of those that it needs; within a column near the middle of these.
fn layout(loaded: &Loaded, closure: &[u32]) -> (HashMap<u32, Place>, usize, usize) {
    let mut columns: Vec<Vec<u32>> = Vec::new();
    let mut column_of: HashMap<u32, usize> = HashMap::new();
    // In topological order: what is needed has its column already.
    for &t in closure {
        let column = needs(loaded, t).iter().map(|(n, _)| column_of[n] + 1).max().unwrap_or(0);
        column_of.insert(t, column);
        columns.resize_with(columns.len().max(column + 1), Vec::new);
        columns[column].push(t);
    }
    let mut places: HashMap<u32, Place> = HashMap::new();
    let (mut x, mut height) = (GAP, 0);
    for column in &mut columns {
        let middle = |t: &u32| {
            let rows: Vec<usize> = needs(loaded, *t).iter().map(|(n, _)| places[n].y).collect();
            rows.iter().sum::<usize>() / rows.len().max(1)
        };
        column.sort_by_cached_key(middle);
        let letters = |t: &u32| {
            let target = &loaded.targets[*t as usize];
            target.name.chars().count().max(target.rule.chars().count())
        };
        let width = column.iter().map(letters).max().unwrap_or(0) * LETTER + 20;
        for (row, &t) in column.iter().enumerate() {
            let y = GAP + row * (HEIGHT + GAP);
            height = height.max(y + HEIGHT + GAP);
            places.insert(t, Place { x, y, width });
        }
        x += width + AISLE;
    }
    (places, x.saturating_sub(AISLE) + GAP, height)
}

fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, standings};
    use super::*;

    #[test]
    fn what_is_needed_is_left_of_what_needs_it_and_boxes_do_not_meet() {
        let loaded = graph();
        let all = [0, 1, 2, 3];
        let (places, width, height) = layout(&loaded, &all);
        for t in all {
            for (need, _) in needs(&loaded, t) {
                assert!(places[&need].x + places[&need].width < places[&t].x);
            }
            assert!(places[&t].x + places[&t].width <= width && places[&t].y + HEIGHT <= height);
            let meets = |o: &u32| places[o].x == places[&t].x && places[o].y == places[&t].y;
            assert_eq!(all.iter().filter(|o| meets(o)).count(), 1);
        }
    }

    #[test]
    fn names_are_text_and_not_markup() {
        let mut loaded = graph();
        loaded.targets[0].rule = "<script>".into();
        let page = html(&loaded, &[3], &standings());
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("changed (inputs changed)") && page.contains("<td>linux</td>"), "{page}");
        assert!(
            !page.contains("http://") || page.matches("http://").count() == 1,
            "only the name of the format"
        );
    }
}
