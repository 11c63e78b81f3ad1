//! One module a verb.

pub mod cell;
pub mod config;
pub mod console;
pub mod crash;
pub mod disable;
pub mod enable;
pub mod hardware;
pub mod load;
pub mod log;
pub mod ps;
pub mod run;
pub mod server;
