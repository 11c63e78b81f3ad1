//! Stands in for a server and says what is in its capability table, slot by slot: what `init` really gave, to be compared with
//! what `image report` says. It needs the console, and holds nothing else.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod run;

rt::entry!(run::main);
