//! What a thread must not do, and the fault that each of it is reported as.

use crate::bystander;
use crate::program::{
    CLIENT_TABLE, CODE, Console, ENDPOINT, FAULT_REPLY, FAULTS, NOTIFICATION, REPLY, SPACE, THREAD, message, now, ok,
    retype, set_deadline, set_registers,
};
use core::arch::global_asm;
use core::fmt::Write;
use ipc::message::{LABEL_FAULT, Request};
use ipc::slots::{self, layout};
use ipc::{Call, Error, ObjectType, Tag};

/// Where the crimes are mapped in the other space.
const PLACE: u64 = 0x7_0000;
const SIZE: u64 = 32;

// One crime every 32 bytes, in the order of the table below.
global_asm!(
    r#"
    .section .text.crimes, "ax"
    .balign 4096
    .globl crimes
crimes:
    xor eax, eax
    mov rax, [rax]
    .balign 32
    mov byte ptr [0x70000], 1
    .balign 32
    mov eax, 0x20000
    jmp rax
    .balign 32
    mov rax, 0xffff800000600000
    mov rax, [rax]
    .balign 32
    mov rax, 0xffffffff80100000
    jmp rax
    .balign 32
    mov rax, 0x800000000000
    mov rax, [rax]
    .balign 32
    push rax
    mov rsp, 0x1f008
    push rax
    .balign 32
    ud2
    .balign 32
    int3
    .balign 32
    int 0x80
    .balign 32
    hlt
    .balign 32
    in al, 0x60
    .balign 32
    xor ecx, ecx
    rdmsr
    .balign 32
    mov eax, 0x20001
    movaps xmm0, [rax]
    .balign 32
    xor ecx, ecx
    mov eax, 1
    div ecx
    .balign 32
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    .balign 32
    cli
    .balign 32
    mov eax, 0x30000
    jmp rax
    .balign 32
    mov eax, 15
    mov edi, 9
    syscall
    ud2
    .balign 32
    mov eax, 16
    mov edi, 2
    syscall
    ud2
    .balign 32
    mov eax, 15
    mov edi, 1
    syscall
    ud2
    .balign 32
    mov eax, 255
    syscall
    ud2
    .balign 32
    mov eax, 10
    mov edi, 1
    xor esi, esi
    syscall
    ud2
    .balign 32
    .globl crime_loop
crime_loop:
    jmp crime_loop
    .balign 32
    "#
);
unsafe extern "C" {
    static crimes: u8;
    static crime_loop: u8;
}

/// Where the endless loop is in the other space.
pub fn endless_loop() -> u64 {
    // SAFETY: both symbols are in the same section.
    PLACE + 2048 + unsafe { (&raw const crime_loop).offset_from(&raw const crimes) } as u64
}

/// Name, vector, and for page faults the error code and the address.
type Verdict = (&'static str, u64, Option<(u64, u64)>);

/// Crimes that are kernel calls, in the order of the table behind the others; each is followed by `ud2`.
const REFUSALS: [(&str, Error); 5] = [
    ("a capability it does not hold", Error::InvalidCapability),
    ("a capability with too few rights", Error::MissingRights),
    ("a capability of another type", Error::WrongType),
    ("a call that is none", Error::InvalidCall),
    ("message to a dead partner", Error::PeerDead),
];

const VERDICTS: [Verdict; 18] = [
    ("read of nothing", 14, Some((4, 0))),
    ("write to read-only", 14, Some((7, PLACE))),
    ("execution of data", 14, Some((0x15, 0x2_0000))),
    ("read of the kernel", 14, Some((5, 0xffff_8000_0060_0000))),
    ("jump into the kernel", 14, Some((0x15, 0xffff_ffff_8010_0000))),
    ("non-canonical address", 13, None),
    ("push below the stack", 14, Some((6, 0x1_f000))),
    ("undefined instruction", 6, None),
    ("breakpoint", 3, None),
    ("interrupt of Linux's old calls", 13, None),
    ("halt", 13, None),
    ("port without right", 13, None),
    ("machine register", 13, None),
    ("misaligned vector access", 13, None),
    ("division by zero", 0, None),
    ("single step", 1, None),
    ("interrupts off", 13, None),
    ("jump into nowhere", 14, Some((0x14, 0x3_0000))),
];

/// Commits all of them, one after the other, in the other thread.
pub fn all() {
    ok(Call::Map, slots::ADDRESS_SPACE, &[CODE.into(), 0, 0x5000_0000, 1, 3]);
    // SAFETY: the page was just mapped; the crimes take less than the half of it that is copied.
    unsafe { core::ptr::copy_nonoverlapping(&raw const crimes, (0x5000_0000 + 2048) as *mut u8, 1024) };
    ok(Call::Unmap, slots::ADDRESS_SPACE, &[0x5000_0000, 1]);
    ok(Call::Map, SPACE, &[CODE.into(), 0, PLACE, 1, 5]);
    for (index, (name, vector, page_fault)) in VERDICTS.into_iter().enumerate() {
        start(index);
        let words = verdict(name);
        assert_eq!(words[0], vector, "{name}: {words:x?}");
        if let Some((error, address)) = page_fault {
            assert_eq!((words[1], words[2]), (error, address), "{name}");
        }
        report(name);
    }
    for (index, (name, error)) in REFUSALS.into_iter().enumerate() {
        start(VERDICTS.len() + index);
        if error == Error::PeerDead {
            // Its request is taken, and then there is nobody who could answer any more.
            let out = message(Call::Receive, ENDPOINT, REPLY, 0, Tag(0), [0; 8]);
            assert_eq!((out.status, out.rdi), (0, 0x1234), "{name}");
            ok(Call::CapDelete, slots::CAP_TABLE, &[REPLY.into()]);
            retype(ObjectType::Reply, 0, REPLY);
        }
        assert_eq!(verdict(name)[0], 6, "{name}");
        ok(Call::ThreadReadRegisters, THREAD, &[]);
        // SAFETY: the own message buffer, where the registers were put just now.
        let rax = unsafe { (layout::MESSAGE_BUFFER as *const ipc::MessageBuffer).read_volatile() }.registers.rax;
        assert_eq!(rax, error as u64, "{name}");
        report(name);
    }
    untold();
}

/// A thread that has nobody to tell its fault to stops where it is; whoever holds it can see that, and let it go on elsewhere.
fn untold() {
    let name = "fault without a handler";
    let undefined = VERDICTS.iter().position(|(_, vector, _)| *vector == 6).unwrap_or(0);
    let configure = |faults: u32| {
        ok(Call::ThreadSuspend, THREAD, &[]);
        ok(Call::ThreadConfigure, THREAD, &[SPACE.into(), CLIENT_TABLE.into(), faults.into(), 0, 0, 77]);
    };
    configure(0);
    start(undefined);
    while ok(Call::ThreadState, THREAD, &[]).rdi == 1 {
        set_deadline(now() + 10_000);
        message(Call::Wait, NOTIFICATION, 0, Request::DEADLINE, Tag(0), [0; 8]);
    }
    let out = ok(Call::ThreadState, THREAD, &[]);
    assert_eq!((out.rdi, out.words[0]), (6, PLACE + 2048 + SIZE * undefined as u64), "{name}");
    configure(FAULTS);
    report(name);
}

/// Lets the other thread commit a crime.
fn start(index: usize) {
    ok(Call::ThreadSuspend, THREAD, &[]);
    set_registers(THREAD, PLACE + 2048 + SIZE * index as u64, 0x2_2000, [0; 2]);
    ok(Call::ThreadResume, THREAD, &[]);
}

/// What its fault handler is told.
fn verdict(name: &str) -> [u64; 8] {
    let out = message(Call::Receive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
    assert_eq!((out.status, out.rdi, Tag(out.rsi).label()), (0, 77, LABEL_FAULT), "{name}");
    out.words
}

/// The bystander has noticed nothing.
pub fn report(name: &str) {
    bystander::check(name);
    let beats = bystander::next(name);
    let _ = writeln!(Console, "selftest: crime and verdict: {name} (beat {beats})");
}
