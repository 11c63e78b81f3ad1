//! A first process that exercises the kernel from user mode, one check after the other, and ends the system.
//!
//! It prints a line per check and `selftest: all passed` at the end; a failed check halts with "failed".
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code)] // Kernel calls and raw memory: that is what is tested.

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod bystander;
#[cfg(target_os = "none")]
mod crimes;
#[cfg(target_os = "none")]
mod dirty;
#[cfg(target_os = "none")]
mod hostile;
#[cfg(target_os = "none")]
mod long_work;
#[cfg(target_os = "none")]
#[path = "../../random.rs"]
mod random;
#[cfg(target_os = "none")]
mod round_trips;
#[cfg(target_os = "none")]
mod time_crimes;

#[cfg(target_os = "none")]
mod program {
    use super::{bystander, crimes, dirty, hostile, long_work, round_trips, time_crimes};
    use core::arch::{asm, global_asm};
    use core::fmt::Write;
    use core::panic::PanicInfo;
    use ipc::message::{LABEL_FAULT, LABEL_FOREIGN, Request};
    use ipc::slots::{self, boot, layout};
    use ipc::{Call, Error, ObjectType, Rights, Tag};

    global_asm!(".section .text.start", ".globl _start", "_start:", "xor ebp, ebp", "call {main}", "ud2", main = sym main);

    /// Status and results of a call.
    #[derive(Clone, Copy, Debug)]
    pub struct Out {
        pub status: u64,
        pub rdi: u64,
        pub rsi: u64,
        pub words: [u64; 8],
    }

    pub fn raw(rax: u64, rdi: u64, rsi: u64, w: [u64; 8]) -> Out {
        let mut out = Out { status: rax, rdi, rsi, words: w };
        // SAFETY: the kernel's calling convention.
        unsafe {
            asm!("syscall",
                inlateout("rax") out.status, inlateout("rdi") out.rdi, inlateout("rsi") out.rsi,
                inlateout("rdx") out.words[0], inlateout("r10") out.words[1], inlateout("r8") out.words[2], inlateout("r9") out.words[3],
                inlateout("r12") out.words[4], inlateout("r13") out.words[5], inlateout("r14") out.words[6], inlateout("r15") out.words[7],
                lateout("rcx") _, lateout("r11") _);
        }
        out
    }

    pub fn call(call: Call, slot: u32, arguments: &[u64]) -> Out {
        let mut a = [0; 9];
        a[..arguments.len()].copy_from_slice(arguments);
        let [rsi, w @ ..] = a;
        raw(Request::new(call, 0, 0).0, slot.into(), rsi, w)
    }

    pub fn ok(number: Call, slot: u32, arguments: &[u64]) -> Out {
        let out = call(number, slot, arguments);
        assert!(out.status == 0, "{number:?}: {:?}", Error::from_raw(out.status));
        out
    }

    pub fn message(number: Call, slot: u32, second: u32, flags: u64, tag: Tag, words: [u64; 8]) -> Out {
        raw(Request::new(number, second, flags).0, slot.into(), tag.0, words)
    }

    pub struct Console;
    impl Write for Console {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            // So many the kernel takes in one step.
            for chunk in text.as_bytes().chunks(8) {
                let mut bytes = [0; 8];
                bytes[..chunk.len()].copy_from_slice(chunk);
                ok(Call::ConsoleWrite, slots::CONSOLE, &[chunk.len() as u64, u64::from_le_bytes(bytes)]);
            }
            Ok(())
        }
    }

    macro_rules! say { ($($t:tt)*) => { { let _ = writeln!(Console, $($t)*); } } }

    #[panic_handler]
    fn panic(info: &PanicInfo) -> ! {
        say!("selftest: FAILED: {info}");
        call(Call::SystemHalt, slots::CONSOLE, &[1]);
        loop {}
    }

    pub fn now() -> u64 {
        // SAFETY: reads a counter.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    pub const ENDPOINT: u32 = 200;
    pub const REPLY: u32 = 201;
    pub const NOTIFICATION: u32 = 202;
    pub const FAULTS: u32 = 203;
    pub const FAULT_REPLY: u32 = 204;
    pub const SPACE: u32 = 205;
    pub const THREAD: u32 = 206;
    pub const TIME: u32 = 207;
    pub const CODE: u32 = 208;
    pub const STACK: u32 = 209;
    const BADGED: u32 = 210;
    pub const CLIENT_TABLE: u32 = 211;
    const FOREIGN: u32 = 212;
    const FOREIGN_TIME: u32 = 213;
    const BUFFER: u32 = 214;
    const MEMORY: u32 = 215;
    const SCRATCH: u32 = 216;

    pub fn retype(kind: ObjectType, size: u64, slot: u32) {
        ok(Call::Retype, MEMORY, &[kind as u64, size, slot.into(), 1]);
    }

    pub fn set_deadline(deadline: u64) {
        // SAFETY: the own message buffer.
        unsafe { (layout::MESSAGE_BUFFER as *mut u64).write_volatile(deadline) }
    }

    /// Registers live in the buffer at this offset.
    const REGISTERS: usize = core::mem::offset_of!(ipc::MessageBuffer, registers);

    pub fn set_registers(thread: u32, rip: u64, rsp: u64, [rdi, rsi]: [u64; 2]) {
        let mut r = ipc::message::Registers::default();
        (r.rip, r.rsp, r.rdi, r.rsi, r.rflags) = (rip, rsp, rdi, rsi, 0x202);
        // SAFETY: the own message buffer.
        unsafe { ((layout::MESSAGE_BUFFER as usize + REGISTERS) as *mut ipc::message::Registers).write_volatile(r) };
        ok(Call::ThreadWriteRegisters, thread, &[]);
    }

    // What the client runs in its own address space: position independent, mapped at 0x10000.
    global_asm!(
        r#"
        .section .text.client, "ax"
        .balign 4096
        .globl client_code
    client_code:
        // call(slot 1 = endpoint, label 7, two words)
        mov eax, 10
        mov edi, 1
        mov esi, 0x70002
        mov edx, 20
        mov r10d, 22
        syscall
        // rdx: the sum. Signal slot 2 if it is 42, else fault at 0xbad.
        cmp rdx, 42
        jne 1f
        mov eax, 15
        mov edi, 2
        syscall
        // A page fault whose handler lets the load succeed.
        mov rax, qword ptr [0x50000]
        // FPU state is kept.
        add rax, {in_xmm3}
        movq xmm3, rax
        mov eax, 1
        syscall
        movq rbx, xmm3
        // Divide by zero: the verdict is read, then the thread is removed.
        xor ecx, ecx
        div ecx
    1:  mov byte ptr [0xbad], 1
        .globl foreign_code
    foreign_code:
        mov eax, 39
        syscall
        mov rdi, rax
        mov eax, 500
        syscall
        mov rsi, rax
        mov eax, 60
        syscall
        ud2
        "#,
        in_xmm3 = const IN_XMM3,
    );
    unsafe extern "C" {
        static client_code: u8;
        static foreign_code: u8;
    }

    // What this thread finds in a register that it has never used.
    global_asm!(".globl unused_xmm3", "unused_xmm3:", "movq rax, xmm3", "ret");
    unsafe extern "C" {
        fn unused_xmm3() -> u64;
    }
    /// What another one has there.
    const IN_XMM3: u64 = 0x5eed;

    extern "C" fn main() -> ! {
        let info = ok(Call::SystemInfo, 0, &[]);
        let tsc_khz = info.rdi;
        say!("selftest: tsc {} kHz, flags {}, image header {:#x}", tsc_khz, info.rsi, info.words[0]);

        // What memory there is.
        let mut largest = (0, 0);
        for slot in boot::FIRST_UNTYPED..boot::FIRST_FREE {
            let out = call(Call::UntypedInfo, slot, &[]);
            if out.status != 0 {
                break;
            }
            say!("selftest: untyped {slot}: {:#x} + {:#x}, kind {}", out.rdi, out.rsi, out.words[1]);
            if out.words[1] == 0 && out.rsi > largest.1 {
                largest = (slot, out.rsi);
            }
        }
        ok(Call::CapCopy, slots::CAP_TABLE, &[MEMORY.into(), largest.0.into(), 0xff, 0]);
        let info = ok(Call::UntypedInfo, MEMORY, &[]);
        assert_eq!(info.rsi, largest.1);

        if let Some((calls, seed)) = hostile::wanted() {
            hostile::run(calls, seed, tsc_khz);
            // This kernel was built to check itself when it is asked to.
            call(Call::SystemHalt, slots::CONSOLE, &[0, 1]);
        }

        // Errors that must be errors.
        assert_eq!(raw(255, 0, 0, [0; 8]).status, Error::InvalidCall as u64);
        assert_eq!(call(Call::Signal, 3999, &[]).status, Error::InvalidCapability as u64);
        assert_eq!(call(Call::Signal, u32::MAX, &[]).status, Error::InvalidCapability as u64);
        assert_eq!(call(Call::Signal, slots::CONSOLE, &[]).status, Error::WrongType as u64);
        assert_eq!(
            call(Call::Map, slots::ADDRESS_SPACE, &[boot::BLOB.into(), 0, 0x5000_0000, 1, 3]).status,
            Error::MissingRights as u64
        );
        say!("selftest: errors ok");

        for (kind, size, slot) in [
            (ObjectType::Endpoint, 0, ENDPOINT),
            (ObjectType::Reply, 0, REPLY),
            (ObjectType::Notification, 0, NOTIFICATION),
            (ObjectType::Endpoint, 0, FAULTS),
            (ObjectType::Reply, 0, FAULT_REPLY),
            (ObjectType::AddressSpace, 64 << 10, SPACE),
            (ObjectType::Thread, 0, THREAD),
            (ObjectType::SchedContext, 0, TIME),
            (ObjectType::Frame, 4096, CODE),
            (ObjectType::Frame, 8192, STACK),
            (ObjectType::CapTable, 16, CLIENT_TABLE),
            (ObjectType::Thread, 0, FOREIGN),
            (ObjectType::SchedContext, 0, FOREIGN_TIME),
            (ObjectType::Frame, 4096, BUFFER),
        ] {
            retype(kind, size, slot);
        }
        assert_eq!(call(Call::Retype, MEMORY, &[7, 0, ENDPOINT.into(), 1]).status, Error::SlotOccupied as u64);
        say!("selftest: retype ok");

        // Deadlines.
        let start = now();
        set_deadline(start + 5 * tsc_khz);
        let out = message(Call::Wait, NOTIFICATION, 0, Request::DEADLINE, Tag(0), [0; 8]);
        let late = now() - start;
        assert_eq!(out.status, Error::TimedOut as u64);
        assert!(late >= 5 * tsc_khz, "too early: {late}");
        say!("selftest: deadline of 5000 us ended {} ticks late", late - 5 * tsc_khz);
        ok(Call::Signal, NOTIFICATION, &[]);
        assert_eq!(call(Call::Poll, NOTIFICATION, &[]).status, Error::WouldBlock as u64);
        ok(Call::CapCopy, slots::CAP_TABLE, &[SCRATCH.into(), NOTIFICATION.into(), Rights::WRITE.bits().into(), 0b101]);
        ok(Call::Signal, SCRATCH, &[]);
        assert_eq!(call(Call::Wait, SCRATCH, &[]).status, Error::MissingRights as u64);
        assert_eq!(ok(Call::Wait, NOTIFICATION, &[]).rdi, 0b101);
        say!("selftest: notification ok");

        // A client in a space of its own.
        let writable = 3;
        ok(Call::Map, slots::ADDRESS_SPACE, &[CODE.into(), 0, 0x5000_0000, 1, writable]);
        // SAFETY: the page was just mapped there; the code is one page at most.
        unsafe { core::ptr::copy_nonoverlapping(&raw const client_code, 0x5000_0000 as *mut u8, 512) };
        ok(Call::Unmap, slots::ADDRESS_SPACE, &[0x5000_0000, 1]);
        ok(Call::Map, SPACE, &[CODE.into(), 0, 0x1_0000, 1, 5]);
        assert_eq!(call(Call::Map, SPACE, &[CODE.into(), 0, 0x1_0000, 1, 5]).status, Error::Busy as u64);
        assert_eq!(call(Call::Map, SPACE, &[CODE.into(), 0, 0x2_0000, 1, 7]).status, Error::InvalidArgument as u64);
        ok(Call::Map, SPACE, &[STACK.into(), 0, 0x2_0000, 2, writable]);
        ok(Call::CapCopy, slots::CAP_TABLE, &[BADGED.into(), ENDPOINT.into(), Rights::WRITE.bits().into(), 0x1234]);
        ok(Call::CapMove, CLIENT_TABLE, &[1, BADGED.into()]);
        ok(Call::CapCopy, CLIENT_TABLE, &[2, SCRATCH.into(), 0xff, 0]);
        ok(Call::ThreadConfigure, THREAD, &[SPACE.into(), CLIENT_TABLE.into(), FAULTS.into(), 0, 0, 77]);
        ok(Call::SchedConfigure, TIME, &[50, 0, 0, 0, 0]);
        ok(Call::SchedBind, TIME, &[THREAD.into()]);
        set_registers(THREAD, 0x1_0000, 0x2_2000, [0; 2]);
        ok(Call::ThreadResume, THREAD, &[]);
        let out = message(Call::Receive, ENDPOINT, REPLY, 0, Tag(0), [0; 8]);
        assert_eq!((out.status, out.rdi, Tag(out.rsi).label(), Tag(out.rsi).words()), (0, 0x1234, 7, 2));
        assert_eq!(call(Call::ThreadState, THREAD, &[]).rdi, 4);
        ok(Call::LeaseRead, REPLY, &[0x1_0000, 0x1100_0000 + 2048, 16]);
        let sum = out.words[0] + out.words[1];
        assert_eq!(message(Call::Reply, REPLY, 0, 0, Tag::new(0, 1), [sum, 0, 0, 0, 0, 0, 0, 0]).status, 0);
        assert_eq!(ok(Call::Wait, NOTIFICATION, &[]).rdi, 0b101);
        say!("selftest: call and reply between address spaces ok");

        let out = message(Call::Receive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
        assert_eq!((out.status, out.rdi, Tag(out.rsi).label()), (0, 77, LABEL_FAULT));
        assert_eq!((out.words[0], out.words[2]), (14, 0x5_0000));
        ok(Call::Map, SPACE, &[STACK.into(), 0, 0x5_0000, 1, 1]);
        let out = message(Call::ReplyReceive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
        assert_eq!((out.status, out.words[0]), (0, 0));
        assert_eq!(call(Call::ThreadState, THREAD, &[]).rdi, 6);
        say!("selftest: page fault repaired, divide error reported at {:#x}", out.words[3]);

        // Looking at its FPU state does not open it to whoever looks.
        let copied = ok(Call::ThreadFpu, THREAD, &[0x1100_0000 + 2048, 512, 0]);
        // SAFETY: the kernel has written that part of the own message buffer; XMM3 lies 208 bytes into the image.
        assert_eq!((copied.rdi, unsafe { ((0x1100_0000 + 2048 + 208) as *const u64).read_volatile() }), (512, IN_XMM3));
        // SAFETY: reads a register that nothing here uses.
        assert_eq!(unsafe { unused_xmm3() }, 0);
        say!("selftest: the FPU state of another thread is not seen");

        bystander::start(tsc_khz);
        crimes::all();
        time_crimes::all(tsc_khz);

        // A foreign thread.
        ok(Call::SetRoute, SPACE, &[0, 511, 3]);
        ok(Call::SetRoute, SPACE, &[500, 500, 7]);
        ok(Call::BindRoute, SPACE, &[3, ENDPOINT.into()]);
        ok(Call::ThreadConfigure, FOREIGN, &[SPACE.into(), 0, FAULTS.into(), 0, 0, 0xabcd]);
        ok(Call::SchedConfigure, FOREIGN_TIME, &[50, 1, 10 * tsc_khz, 0, 0]);
        ok(Call::SchedBind, FOREIGN_TIME, &[FOREIGN.into()]);
        // SAFETY: both symbols are in the page of code.
        let offset = unsafe { (&raw const foreign_code).offset_from(&raw const client_code) } as u64;
        set_registers(FOREIGN, 0x1_0000 + offset, 0x2_1000, [0; 2]);
        ok(Call::ThreadResume, FOREIGN, &[]);
        let out = message(Call::Receive, ENDPOINT, REPLY, 0, Tag(0), [0; 8]);
        assert_eq!((out.rdi, Tag(out.rsi).label(), out.words[0], out.words[7]), (0xabcd, LABEL_FOREIGN, 39, 0x2_1000));
        let out = message(Call::ReplyReceive, ENDPOINT, REPLY, 0, Tag::new(0, 1), [4711, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((out.status, out.words[0], out.words[1], out.words[2] as i64), (0, 60, 4711, -38));
        say!("selftest: foreign calls ok");

        // The caller of a dropped Reply learns of it: here a foreign one, that goes on and hits `ud2`.
        ok(Call::CapDelete, slots::CAP_TABLE, &[REPLY.into()]);
        assert_eq!(call(Call::CapIdentify, slots::CAP_TABLE, &[REPLY.into()]).rdi, 0);
        ok(Call::CapDelete, slots::CAP_TABLE, &[FAULT_REPLY.into()]);
        retype(ObjectType::Reply, 0, FAULT_REPLY);
        let out = message(Call::Receive, FAULTS, FAULT_REPLY, 0, Tag(0), [0; 8]);
        assert_eq!((out.rdi, out.words[0]), (0xabcd, 6));
        say!("selftest: dropped reply ok");

        ok(Call::CapDelete, slots::CAP_TABLE, &[FAULT_REPLY.into()]);
        round_trips::all();
        long_work::all();
        dirty::all();
        say!("selftest: bystander ok, {} beats", bystander::stop());

        // A frame that goes takes its mappings along.
        retype(ObjectType::Frame, 1 << 20, SCRATCH + 20);
        ok(Call::Map, slots::ADDRESS_SPACE, &[(SCRATCH + 20).into(), 0, 0x6000_0000, 256, writable]);
        // SAFETY: just mapped.
        assert_eq!(unsafe { (0x6000_0000 as *const u64).read_volatile() }, 0);
        ok(Call::CapDelete, slots::CAP_TABLE, &[(SCRATCH + 20).into()]);
        retype(ObjectType::Frame, 4096, SCRATCH + 20);
        assert_eq!(ok(Call::Map, slots::ADDRESS_SPACE, &[(SCRATCH + 20).into(), 0, 0x6000_0000, 1, writable]).rdi, 1);

        // All of it goes back.
        ok(Call::CapRevoke, slots::CAP_TABLE, &[MEMORY.into()]);
        let info = ok(Call::UntypedInfo, MEMORY, &[]);
        assert_eq!(info.words[0], 0);
        assert_eq!(call(Call::ThreadState, THREAD, &[]).status, Error::InvalidCapability as u64);
        retype(ObjectType::Endpoint, 0, ENDPOINT);
        say!("selftest: revoke ok");

        say!("selftest: all passed");
        let out = call(Call::SystemHalt, slots::CONSOLE, &[0]);
        panic!("still here: {out:?}")
    }
}
