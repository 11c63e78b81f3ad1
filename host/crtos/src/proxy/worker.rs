//! A worker: waits for calls of its real-time thread and makes them, at that thread's policy and priority.

use std::io::ErrorKind;

use super::channel::{Call, Channel, REPLY};
use super::{signals, special};
use crate::sys;

const EPIPE: i64 = -32;
const EFBIG: i64 = -27;

/// Serves a slot until its thread, or the real-time side, is no more.
pub fn work(channel: &'static Channel, slot: u32, policy: u16, priority: u16) {
    signals::block_all_but_cancel();
    let mut scheduling = (policy, priority);
    let mut refused = None;
    let mut call = Call::first(slot);
    loop {
        match channel.next(&mut call) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        let wanted = (call.policy, call.priority);
        if wanted != scheduling && refused != Some(wanted) {
            match sys::set_scheduling(wanted.0, wanted.1) {
                Ok(()) => (scheduling, refused) = (wanted, None),
                Err(_) => refused = Some(wanted),
            }
        }
        let (value, new) = special::make(channel, call.id, call.number, call.args, &mut scheduling);
        if matches!(value, EPIPE | EFBIG) {
            signals::forward_own(channel);
        }
        call.flags = REPLY;
        call.value = value;
        call.new_slot = new.number;
        call.new_generation = new.generation;
    }
}
