//! The smallest server that survives its own crashes: it counts beats in its vault, and says on the console what it found there.
//!
//! Arguments: `period-ms=N` (default 100), `report=N` (a line every N beats, default 10), `crash-at=N` (faults at beat N of each
//! instance), `how=WAY` (one of [`rt::crash`], default panic), `beats=N` (ends the system, well, after N beats in all; needs the console
//! with `halt`). It answers every call with the number of beats.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod run;

rt::entry!(run::main);
