//! The forwarder's bookkeeping: which calls wait for Linux, what goes on the rings, what comes back and is believed.
//! It does nothing by itself; everything that has an effect goes through [`channel::Channel`], so that all of it runs
//! on a host against a simulated, hostile Linux.
#![cfg_attr(not(test), no_std)]

pub mod book;
pub mod channel;
pub mod client;
pub mod silence;
pub mod state;
