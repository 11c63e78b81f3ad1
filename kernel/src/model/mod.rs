//! An executable specification of the capability system, in the plainest terms: maps and sets, no links, nothing shared with the
//! kernel's code. `driver` makes random calls to the kernel and to this, and compares.
//!
//! * `state` says what there is: capabilities with their parents, objects, memory; and what ends with what.
//! * `calls` says what each call does to it, and which error it gives.

mod calls;
mod driver;
mod space;
mod state;
