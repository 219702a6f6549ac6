//! One answer for a group, which has no steps of its own: those of its members, the worst of them first.
//! Knows answers, neither runs nor records.

use super::{Decision, Explanation};
use crate::load::Loaded;

/// The targets that a group stands for, groups in it resolved; `None` if the target is no group.
pub(super) fn members<'l>(loaded: &'l Loaded, target: &str) -> Option<Vec<&'l str>> {
    let group = |t: u32| loaded.targets[t as usize].outputs.is_empty();
    let asked = loaded.target_index(target).filter(|t| group(*t))?;
    let mut found = Vec::new();
    let mut stack = vec![asked];
    let mut seen = std::collections::HashSet::new();
    while let Some(t) = stack.pop() {
        if !seen.insert(t) {
            continue;
        }
        match group(t) {
            true => stack.extend(loaded.targets[t as usize].references.iter().rev().map(|r| r.target)),
            false => found.push(loaded.targets[t as usize].name.as_str()),
        }
    }
    Some(found)
}

/// How bad a decision is; a group is as its worst member.
fn rank(decision: Decision) -> u8 {
    match decision {
        Decision::Hit => 0,
        Decision::Depends => 1,
        Decision::Rebuilt | Decision::WouldRun => 2,
        Decision::NeverBuilt => 3,
        Decision::NotRun => 4,
        Decision::Failed => 5,
    }
}

/// Puts the members' answers together into `whole`, which says nothing yet; each cause and cut-off once.
pub(super) fn together(mut whole: Explanation, answers: Vec<Explanation>) -> Explanation {
    for answer in answers {
        if rank(answer.decision) > rank(whole.decision) {
            whole.decision = answer.decision;
            whole.message = answer.message.map(|message| format!("{}: {message}", answer.target));
        }
        if (answer.started, &answer.run) > (whole.started, &whole.run) {
            (whole.started, whole.run) = (answer.started, answer.run);
        }
        whole.millis += answer.millis;
        for run in answer.made_by {
            if !whole.made_by.contains(&run) {
                whole.made_by.push(run);
            }
        }
        for cause in answer.causes {
            if !whole.causes.iter().any(|c| c.cause == cause.cause) {
                whole.causes.push(cause);
            }
        }
        for cut in answer.cut_off {
            if !whole.cut_off.contains(&cut) {
                whole.cut_off.push(cut);
            }
        }
    }
    whole.made_by.sort();
    whole
}
