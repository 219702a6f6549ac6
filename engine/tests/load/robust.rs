//! Whatever stands in the file, loading ends with a graph or with errors, never with a panic.

use mosbuild_engine::load::load;
use proptest::prelude::*;

use crate::toy::{Toys, options, workspace};

fn survive(bytes: &[u8]) {
    let dir = workspace(bytes, &["src/main.c"]);
    let options = options(dir.path());
    match load(&options, &Toys::new(), None) {
        Ok(mut loaded) => {
            let all: Vec<u32> = (0..loaded.targets.len() as u32).collect();
            if let Err(errors) = loaded.expand(&all) {
                assert!(!errors.render(false).is_empty());
            }
        }
        Err(errors) => {
            assert!(!errors.items.is_empty());
            assert!(!errors.render(true).is_empty());
        }
    }
}

/// Pieces of which files are made, right and wrong.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "mosbuild: 1\n",
        "targets:\n",
        "  a:\n",
        "  b: ",
        "    rule: command\n",
        "    run: x\n",
        "rule: group",
        "deps:",
        " [a, b]",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "- ",
        "\n",
        "  ",
        "\t",
        "&x ",
        "*x",
        "<<: ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "${v}",
        "$${",
        "${",
        "# c",
        "? ",
        "!t ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "inputs: ",
        "\"**/*\"",
        "../x",
        "ü",
        "\r\n",
        "\r",
        "\u{2028}",
        "~",
        "null",
        "dist:\n",
        "vars:\n",
        "  v: ${v}\n",
        "profiles: ",
        "outputs: o",
        "\u{85}",
        "@",
        "`",
        "\\",
    ];
    prop_oneof![prop::sample::select(words.to_vec()).prop_map(str::to_string), "[ -~]{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        survive(text.as_bytes());
    }

    #[test]
    fn anything_like_a_file(pieces in prop::collection::vec(piece(), 0..60)) {
        survive(pieces.concat().as_bytes());
    }

    #[test]
    fn a_right_file_with_one_piece_put_in(at in 0usize..400, piece in piece()) {
        let file = "mosbuild: 1\nvars: { v: \"1\", w: \"${v}\" }\ntargets:\n  a:\n    rule: command\n    run: |\n      make ${x}\n    inputs: [src/, \"**/*.c\"]\n    env: { A: \"${w}\" }\n    outputs:\n      - o\n      - t/\n  b: { rule: modules, linux: a, install: [{ from: src, to: /x }] }\ndist: { \"x-{a.version}\": \"a:o\" }\n";
        let at = at.min(file.len());
        let text = format!("{}{piece}{}", &file[..at], &file[at..]);
        survive(text.as_bytes());
    }
}
