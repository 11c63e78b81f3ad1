//! Messages as large as they get.

use super::{ENDPOINT, REPLY, SERVER, with_server};
use crate::memory::Ref;
use crate::object::Thread;
use crate::object::thread::State;
use crate::rig::{Rig, SPACE, TABLE, THREAD};
use ipc::{Call, MessageBuffer, ObjectType, Rights, Tag};

const WORDS: usize = core::mem::offset_of!(MessageBuffer, words) / 8;
const SEND: usize = core::mem::offset_of!(MessageBuffer, send_caps) / 8;
const TAKE: usize = core::mem::offset_of!(MessageBuffer, receive_slots) / 8;

/// Word `index` of the message `which`.
fn word(which: u64, index: usize) -> u64 {
    which << 32 | index as u64
}

fn slots(rig: &Rig, thread: Ref<Thread>, at: usize, [a, b, c]: [u32; 3]) {
    rig.buffer(thread).write(at, u64::from(a) | u64::from(b) << 32);
    rig.buffer(thread).write(at + 1, c.into());
}

/// The current thread's message: 64 words, these capabilities.
fn send(rig: &Rig, call: Call, slot: u32, second: u32, which: u64, caps: [u32; 3]) {
    let thread = rig.current();
    for index in 8..64 {
        rig.buffer(thread).write(WORDS + index, word(which, index));
    }
    slots(rig, thread, SEND, caps);
    let words = core::array::from_fn(|index| word(which, index));
    rig.message(call, slot, second, Tag::with_caps(which, 64, 3), words);
}

/// What a thread has got.
fn check(rig: &Rig, thread: Ref<Thread>, which: u64, caps: usize) {
    let out = rig.result(thread);
    assert_eq!((out.status, Tag(out.rsi)), (0, Tag::with_caps(which, 64, caps)));
    assert_eq!(out.words, core::array::from_fn(|index| word(which, index)));
    assert!((8..64).all(|index| rig.buffer(thread).read(WORDS + index) == word(which, index)));
}

#[test]
fn sixty_four_words_and_three_capabilities_go_both_ways() {
    for server_waits in [true, false] {
        let rig = with_server();
        let client = rig.current();
        let server: Ref<Thread> = rig.slot(SERVER).object().unwrap();
        slots(&rig, server, TAKE, [100, 101, 102]);
        slots(&rig, client, TAKE, [110, 111, 112]);
        if !server_waits {
            // Then the message waits in the client's registers and buffer.
            rig.ok(Call::ThreadSuspend, SERVER, &[]);
        }
        send(&rig, Call::Call, ENDPOINT, 0, 5, [ENDPOINT, THREAD, SPACE]);
        if !server_waits {
            assert!(client.state.get() == State::Sending);
            server.frame.rax.set(0);
            crate::object::thread_ops::resume(&rig.k, server).unwrap();
            assert!(rig.settle() == server);
            rig.message(Call::Receive, ENDPOINT, REPLY, Tag(0), [0; 8]);
        }
        assert!(rig.settle() == server);
        check(&rig, server, 5, 3);
        let kinds = [100, 101, 102].map(|slot| rig.slot(slot).kind());
        assert_eq!(kinds, [ObjectType::Endpoint, ObjectType::Thread, ObjectType::AddressSpace].map(Some));
        send(&rig, Call::ReplyReceive, ENDPOINT, REPLY, 9, [100, TABLE, 102]);
        assert!(rig.settle() == client);
        check(&rig, client, 9, 3);
        let kinds = [110, 111, 112].map(|slot| rig.slot(slot).kind());
        assert_eq!(kinds, [ObjectType::Endpoint, ObjectType::CapTable, ObjectType::AddressSpace].map(Some));
        let behind = rig.buffer(client).read(WORDS + 64);
        assert_eq!(behind, u64::from(ENDPOINT) | u64::from(THREAD) << 32, "nothing is written behind the words");
        // They were copied: what was sent is still there, and revoking it takes the copies along.
        rig.ok(Call::CapRevoke, TABLE, &[ENDPOINT.into()]);
        assert!(rig.slot(100).is_empty() && rig.slot(110).is_empty() && !rig.slot(ENDPOINT).is_empty());
    }
}

#[test]
fn capabilities_stop_at_the_first_that_cannot_go_and_words_do_not() {
    // An endpoint without GRANT; a slot that is empty; one that is full; one that is none.
    let mut send_to = ENDPOINT;
    for (case, sent, taken, came) in [
        ("no right to grant", [SPACE, SPACE, SPACE], [100, 101, 102], 0),
        ("nothing to send", [SPACE, 99, SPACE], [100, 101, 102], 1),
        ("no room", [SPACE, SPACE, SPACE], [100, 101, TABLE], 2),
        ("no such slot", [SPACE, SPACE, SPACE], [100, u32::MAX, 102], 1),
        ("all", [SPACE, SPACE, SPACE], [100, 101, 102], 3),
    ] {
        let rig = with_server();
        let server: Ref<Thread> = rig.slot(SERVER).object().unwrap();
        slots(&rig, server, TAKE, taken);
        if came == 0 {
            send_to = 98;
            rig.ok(Call::CapCopy, TABLE, &[98, ENDPOINT.into(), Rights::WRITE.bits().into(), 0]);
        }
        send(&rig, Call::Call, send_to, 0, 5, sent);
        assert!(rig.settle() == server, "{case}");
        check(&rig, server, 5, came);
        let there = [100, 101, 102].iter().filter(|&&slot| !rig.slot(slot).is_empty()).count();
        assert_eq!(there, came, "{case}");
        send_to = ENDPOINT;
    }
}
