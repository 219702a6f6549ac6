//! Content-addressed storage. Knows no rule, no scheduler, no terminal.
