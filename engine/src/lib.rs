//! Load, plan, key, look up, schedule, run, record, explain. Knows no rule.
