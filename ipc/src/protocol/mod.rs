//! What servers say to each other: one module per server that is called, with its labels and words.

pub mod classes;
pub mod start;
pub mod vfs;
