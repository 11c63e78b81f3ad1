//! The threads that are measured. One page, copied into each address space that they run in.
//!
//! A loop that notes samples has `rbx` at the place of the next one, 32 bits each, and `ebp` at the number of those to come; `rsp` at the
//! end of some memory of its own. A sample is the difference of two readings of the counter: one more than the instructions between.
#![allow(unsafe_code)] // Threads in assembly, and the addresses of their entries.

use super::workshop::{DATA, ENDPOINT, MEASURED, PARK, REPLY, SIGNAL_DONE, SIGNAL_MEASURED};
use core::arch::global_asm;
use core::mem::offset_of;
use ipc::message::{MessageBuffer, Request};
use ipc::{Call, Tag};

/// What a sample counts besides the path: the note of the start, and one reading of the counter.
pub const OVERHEAD: u32 = 2;
/// The same, where nobody notes the start: it is a deadline.
pub const NO_OVERHEAD: u32 = 0;
/// Number of the foreign call that ends a loop; others are answered.
pub const FOREIGN_END: u64 = 60;

global_asm!(
    r#"
    .section .text.loops, "ax"
    .balign 4096
    .globl loops_start
loops_start:

    // Notes a sample whose start lies at \start, and goes on from 1b or ends.
    .macro sample start:vararg
    rdtsc
    sub eax, dword ptr [\start]
    mov dword ptr [rbx], eax
    add rbx, 4
    dec ebp
    jnz 1b
    jmp finished
    .endm

    .macro calls name, tag
    .balign 16
    .globl \name
\name:
1:  rdtsc
    mov dword ptr [rsp - 8], eax
    mov eax, {call}
    mov edi, {endpoint}
    mov esi, \tag
    syscall
    sample rsp - 8
    .endm

    .macro serves name, tag
    .balign 16
    .globl \name
\name:
1:  mov eax, {reply_receive}
    mov edi, {endpoint}
    mov esi, \tag
    syscall
    jmp 1b
    .endm

    calls call_0, 0
    calls call_4, 4
    calls call_64, 64
    serves serve_0, 0
    serves serve_1, 1
    serves serve_4, 4
    serves serve_64, 64

    .balign 16
    .globl null
null:
1:  rdtsc
    mov dword ptr [rsp - 8], eax
    mov eax, {null}
    syscall
    sample rsp - 8

    .balign 16
    .globl yields
yields:
1:  rdtsc
    mov dword ptr [rsp - 8], eax
    mov eax, {yield_}
    syscall
    sample rsp - 8

    .balign 16
    .globl wait_for_signal
wait_for_signal:
1:  mov eax, {wait}
    mov edi, {measured}
    syscall
    sample {data}

    .balign 16
    .globl signals
signals:
1:  rdtsc
    mov dword ptr [{data}], eax
    mov eax, {signal}
    mov edi, {signal_measured}
    syscall
    jmp 1b

    // Sleeps for a while that differs from time to time; r13 is its message buffer, r15d a random number. The first sleep is not noted.
    .macro sleeps name, start:vararg
    .balign 16
    .globl \name
\name:
    call doze
1:  call doze
    sample \start
    .endm
    sleeps sleep_from_deadline, r13
    sleeps sleep_from_note, {data}
doze:
    rdtsc
    shl rdx, 32
    or rax, rdx
    imul r15d, r15d, 1103515245
    add r15d, 12345
    mov edx, r15d
    shr edx, 20
    lea rax, [rax + rdx + 3000]
    mov qword ptr [r13 + {deadline}], rax
    mov eax, {wait_until}
    mov edi, {park}
    // The return is on the way to the first instruction: it is left out by jumping.
    pop r14
    syscall
    jmp r14

    // Notes the time as often as it can.
    .balign 16
    .globl note_time
note_time:
1:  rdtsc
    mov dword ptr [{data}], eax
    jmp 1b

    // Foreign: it has FPU state, as any program.
    .balign 16
    .globl foreign
foreign:
    pcmpeqd xmm0, xmm0
1:  rdtsc
    mov dword ptr [rsp - 8], eax
    mov eax, 39
    syscall
    rdtsc
    sub eax, dword ptr [rsp - 8]
    mov dword ptr [rbx], eax
    add rbx, 4
    dec ebp
    jnz 1b
    mov eax, {foreign_end}
    syscall
    ud2

    // What runs beside a measurement.
    .balign 16
    .globl computes
computes:
    imul rax, rax, 3
    jmp computes
    .balign 16
    .globl faults
faults:
    mov rax, qword ptr [0]
    ud2
    .balign 16
    .globl calls_for_ever
calls_for_ever:
    mov eax, {call}
    mov edi, {endpoint}
    mov esi, 4
    syscall
    jmp calls_for_ever

finished:
    mov eax, {signal}
    mov edi, {signal_done}
    syscall
    mov eax, {wait}
    mov edi, {park}
    syscall
    ud2
    .globl loops_end
loops_end:
    "#,
    call = const Call::Call as u64,
    null = const Call::Null as u64,
    yield_ = const Call::Yield as u64,
    wait = const Call::Wait as u64,
    wait_until = const Call::Wait as u64 | Request::DEADLINE,
    signal = const Call::Signal as u64,
    reply_receive = const Request::new(Call::ReplyReceive, REPLY, 0).0,
    endpoint = const ENDPOINT,
    measured = const MEASURED,
    signal_measured = const SIGNAL_MEASURED,
    signal_done = const SIGNAL_DONE,
    park = const PARK,
    data = const DATA,
    deadline = const offset_of!(MessageBuffer, deadline),
    foreign_end = const FOREIGN_END,
);

const _: () = assert!(Tag::new(0, 64).0 == 64 && offset_of!(MessageBuffer, deadline) == 0);

macro_rules! entries {
    ($($name:ident)*) => {
        unsafe extern "C" { $( pub static $name: u8; )* }
    };
}

entries! {
    loops_start loops_end call_0 call_4 call_64 serve_0 serve_1 serve_4 serve_64 null yields wait_for_signal signals
    sleep_from_deadline sleep_from_note note_time foreign computes faults calls_for_ever
}

/// The page of all loops.
pub fn page() -> &'static [u8] {
    // SAFETY: the linker puts both at their places in the section above, which is mapped for good.
    unsafe {
        let (start, end) = (&raw const loops_start, &raw const loops_end);
        core::slice::from_raw_parts(start, end.offset_from(start) as usize)
    }
}

/// Where a loop lies in the page.
pub fn offset(entry: *const u8) -> u64 {
    // SAFETY: entries are of the section that begins with that symbol.
    unsafe { entry.offset_from(&raw const loops_start) as u64 }
}
