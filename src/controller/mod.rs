//! Effects: the pass (observe, decide, check, act, report), and the loops that run it.

pub mod run;
