//! Effects: the pass (observe, decide, check, act, report), and the loops that run it.
//!
//! * [`agent`] puts the parts together, starts and stops them; [`by_hand`] runs their passes once
//! * [`run`] when a pass runs: beats, wakes, one at a time
//! * [`directory`], [`bucket`] the two loops
//! * [`pass`] the five in a row: [`observe`], `decide`, `check`, [`act`], [`report`] with its [`news`]
//! * [`schedule`] when to save, [`saver`] one save
//! * [`verify`], [`upload`] the long steps, in their [`slots`]
//! * [`member`] what etcd says of its history

pub mod act;
pub mod agent;
pub mod bucket;
pub mod by_hand;
pub mod directory;
pub mod member;
pub mod news;
pub mod observe;
pub mod outcome;
pub mod parts;
pub mod pass;
pub mod permit;
pub mod report;
pub mod run;
pub mod saver;
pub mod schedule;
pub mod shared;
pub mod slots;
pub mod surroundings;
pub mod upload;
pub mod verify;
pub mod voice;
