//! Effects: the pass (observe, decide, check, act, report), and the loops that run it.
//!
//! * [`agent`] puts the parts together, starts and stops them
//! * [`run`] when a pass runs: beats, wakes, one at a time
//! * [`directory`], [`bucket`] the two loops
//! * [`pass`] the five in a row: [`observe`], `decide`, `check`, [`act`], [`report`]
//! * [`verify`] the slots of the long step

pub mod act;
pub mod agent;
pub mod bucket;
pub mod directory;
pub mod observe;
pub mod outcome;
pub mod parts;
pub mod pass;
pub mod permit;
pub mod report;
pub mod run;
pub mod shared;
pub mod surroundings;
pub mod verify;
pub mod voice;
