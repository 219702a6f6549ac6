//! Names of host programs as people declare them. Knows no rule, and not whether a program is there.

use mosbuild_engine::field;
use mosbuild_engine::load::FieldError;

use crate::one_or_many::OneOrMany;

/// What is wrong with the names in the field `tools`.
pub fn faults(tools: &OneOrMany) -> impl Iterator<Item = FieldError> {
    let wrong = |name: &str| name.is_empty() || name.contains(|c: char| c == '/' || c.is_whitespace());
    tools.all().iter().enumerate().filter(move |(_, name)| wrong(name)).map(|(i, name)| FieldError {
        field: field!("tools", i),
        message: format!("{name:?} is no name of a program"),
        help: Some("without its folder, as gcc: it is looked for in PATH".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_without_folders() {
        let names = ["gcc", "x86_64-linux-gnu-gcc-12", "[", "c++", "/usr/bin/gcc", "../gcc", "", "a b"];
        let tools = OneOrMany::Many(names.map(str::to_owned).into());
        let wrong: Vec<String> = faults(&tools).map(|e| e.message).collect();
        let named = |name: &&str| format!("{name:?} is no name of a program");
        assert_eq!(wrong, names[4..].iter().map(named).collect::<Vec<_>>());
    }
}
