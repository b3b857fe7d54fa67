//! Removing.
