//! Messages to a thread of higher priority in the own space: full ones, and the cheapest ones, counted.

use crate::program::{CODE, Console, ENDPOINT, NOTIFICATION, REPLY, message, now, ok, retype, set_registers};
use core::arch::{asm, global_asm};
use core::fmt::Write;
use ipc::slots::{self, layout};
use ipc::{Call, ObjectType, Tag};

const PEER: u32 = 230;
const PEER_TIME: u32 = 231;
const PEER_BUFFER: u32 = 232;
const PEER_ENDPOINT: u32 = 233;
const PEER_REPLY: u32 = 234;

// The cheapest client and server there can be: what is counted is the kernel.
global_asm!(
    r#"
    .section .text.bench, "ax"
    .globl bench_server
bench_server:
    mov eax, {receive}
    mov edi, {endpoint}
    xor esi, esi
    syscall
1:  mov eax, {reply_receive}
    mov edi, {endpoint}
    xor esi, esi
    syscall
    test eax, eax
    jz 1b
    ud2
    .globl bench_client
bench_client:
    push rbx
    mov ebx, edi
1:  mov eax, {call}
    mov edi, {endpoint}
    xor esi, esi
    syscall
    dec ebx
    jnz 1b
    pop rbx
    ret
    .globl bench_null
bench_null:
    push rbx
    mov ebx, edi
1:  xor eax, eax
    syscall
    dec ebx
    jnz 1b
    pop rbx
    ret
    .globl bench_yield
bench_yield:
    push rbx
    mov ebx, edi
1:  mov eax, 1
    syscall
    dec ebx
    jnz 1b
    pop rbx
    ret
    "#,
    receive = const 11 | (REPLY as u64) << 16,
    reply_receive = const 14 | (REPLY as u64) << 16,
    call = const 10,
    endpoint = const ENDPOINT,
);
unsafe extern "C" {
    fn bench_server() -> !;
    fn bench_client(rounds: u32);
    fn bench_null(rounds: u32);
    fn bench_yield(rounds: u32);
}

fn measure(name: &str, work: unsafe extern "C" fn(u32)) {
    const ROUNDS: u32 = 1000;
    let start = now();
    // SAFETY: makes kernel calls only, and keeps to the calling convention but for the registers that calls give back in.
    unsafe { work(ROUNDS) };
    let _ = writeln!(Console, "selftest: {name}: {} ticks", (now() - start) / u64::from(ROUNDS));
}

/// Echo server thread in the same space: adds one to word 0.
extern "C" fn peer() -> ! {
    let mut out = message(Call::Receive, PEER_ENDPOINT, PEER_REPLY, 0, Tag(0), [0; 8]);
    // When the endpoint goes, so does the peer: at its priority it would not let anybody else go on.
    while out.status == 0 {
        out.words[0] += 1;
        // What came in the buffer goes back as it is, and so do capabilities, from the slots that its buffer names.
        let tag = Tag::with_caps(0, Tag(out.rsi).words(), Tag(out.rsi).caps());
        out = message(Call::ReplyReceive, PEER_ENDPOINT, PEER_REPLY, 0, tag, out.words);
    }
    // SAFETY: stops the thread: it has no fault handler.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// 64 words and 3 capabilities to the peer, and back.
fn full_message() {
    const PEER_BUFFER_AT: u64 = 0x5110_0000;
    const THERE: [u32; 4] = [280, 281, 282, 0];
    const BACK: [u32; 4] = [283, 284, 285, 0];
    ok(Call::Map, slots::ADDRESS_SPACE, &[PEER_BUFFER.into(), 0, PEER_BUFFER_AT, 1, 3]);
    let word = |index: usize| 0x1234_5678_0000_0000 | index as u64;
    let (own, peers) = (layout::MESSAGE_BUFFER as *mut ipc::MessageBuffer, PEER_BUFFER_AT as *mut ipc::MessageBuffer);
    // SAFETY: two message buffers, both mapped writable here; no call is in progress. No reference outlives this.
    unsafe {
        (*own).words = core::array::from_fn(word);
        (*own).send_caps = [NOTIFICATION, ENDPOINT, CODE, 0];
        (*own).receive_slots = BACK;
        (*peers).send_caps = THERE;
        (*peers).receive_slots = THERE;
    }
    let tag = Tag::with_caps(1, 64, 3);
    let out = message(Call::Call, PEER_ENDPOINT, 0, 0, tag, core::array::from_fn(word));
    assert_eq!((out.status, Tag(out.rsi), out.words[0]), (0, Tag::with_caps(0, 64, 3), word(0) + 1));
    assert!((1..8).all(|index| out.words.get(index) == Some(&word(index))));
    // SAFETY: as above; the peer waits.
    let words = unsafe { [own, peers].map(|buffer| (*buffer).words) };
    assert!(words.iter().all(|words| (8..64).all(|at| words.get(at) == Some(&word(at)))));
    let kind = |slot: u32| ok(Call::CapIdentify, slots::CAP_TABLE, &[slot.into()]).rdi;
    let kinds = [ObjectType::Notification, ObjectType::Endpoint, ObjectType::Frame].map(|kind| kind as u64);
    assert_eq!(([280, 281, 282].map(kind), [283, 284, 285].map(kind)), (kinds, kinds));
    ok(Call::Unmap, slots::ADDRESS_SPACE, &[PEER_BUFFER_AT, 1]);
    let _ = writeln!(Console, "selftest: 64 words and 3 capabilities went both ways");
}

/// All of it; the peer and the servers stay.
pub fn all() {
    // Round trips in the own space, with a peer of higher priority.
    for (kind, size, slot) in [
        (ObjectType::Thread, 0, PEER),
        (ObjectType::SchedContext, 0, PEER_TIME),
        (ObjectType::Frame, 4096, PEER_BUFFER),
        (ObjectType::Endpoint, 0, PEER_ENDPOINT),
        (ObjectType::Reply, 0, PEER_REPLY),
        (ObjectType::Frame, 16384, 235),
    ] {
        retype(kind, size, slot);
    }
    ok(Call::Map, slots::ADDRESS_SPACE, &[235, 0, 0x5100_0000, 4, 3]);
    ok(
        Call::ThreadConfigure,
        PEER,
        &[slots::ADDRESS_SPACE.into(), slots::CAP_TABLE.into(), 0, PEER_BUFFER.into(), 0, 1],
    );
    ok(Call::SchedConfigure, PEER_TIME, &[200, 0, 0, 0, 0]);
    ok(Call::SchedBind, PEER_TIME, &[PEER.into()]);
    set_registers(PEER, peer as *const () as u64, 0x5100_4000 - 8, [0; 2]);
    ok(Call::ThreadResume, PEER, &[]);
    let start = now();
    for index in 0..1000 {
        let out = message(Call::Call, PEER_ENDPOINT, 0, 0, Tag::new(1, 1), [index, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((out.status, out.rdi, out.words[0]), (0, 0, index + 1));
    }
    let _ = writeln!(Console, "selftest: 1000 round trips, {} ticks each", (now() - start) / 1000);
    full_message();
    // The same, counted: a server of its own on the first endpoint.
    retype(ObjectType::Reply, 0, REPLY);
    for (kind, size, slot) in
        [(ObjectType::Thread, 0, 240), (ObjectType::SchedContext, 0, 241), (ObjectType::Frame, 4096, 242)]
    {
        retype(kind, size, slot);
    }
    ok(Call::ThreadConfigure, 240, &[slots::ADDRESS_SPACE.into(), slots::CAP_TABLE.into(), 0, 242, 0, 2]);
    ok(Call::SchedConfigure, 241, &[200, 0, 0, 0, 0]);
    ok(Call::SchedBind, 241, &[240]);
    set_registers(240, bench_server as *const () as u64, 0x5100_2000, [0; 2]);
    ok(Call::ThreadResume, 240, &[]);
    measure("call and reply, 0 words, same space", bench_client);
    measure("null", bench_null);
    measure("yield", bench_yield);
}
