//! Commands: one file each.

pub mod origin;
