//! A driver for QEMU's `edu` device, that a manifest gives by its PCI id: finds out that registers and interrupt are the device's.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod run {
    use rt::{Start, log};

    /// Registers of the device (QEMU's docs/specs/edu.rst).
    const IDENTITY: usize = 0x00;
    const LIVENESS: usize = 0x04;
    const STATUS: usize = 0x24;
    const RAISE: usize = 0x60;
    const ACKNOWLEDGE: usize = 0x64;

    /// The server.
    pub fn main(start: Start) -> ! {
        let registers = start.memory("registers").expect("the manifest gives the device's memory").device();
        registers.write(LIVENESS, 0x1234_5678);
        log!("identity {:#x}, inverse {:#x}", registers.read(IDENTITY), registers.read(LIVENESS));
        for number in 1..=3 {
            registers.write(RAISE, number);
            let bits = Start::NOTIFICATION.wait(None).expect("a notification");
            log!("interrupt {number}: bits {:#x}, cause {:#x}", bits, registers.read(STATUS));
            registers.write(ACKNOWLEDGE, number);
            start.irq("done").expect("the manifest gives the interrupt").ack().expect("an acknowledgement");
        }
        log!("done");
        loop {
            let _ = Start::NOTIFICATION.wait(None);
        }
    }
}

rt::entry!(run::main);
