//! Answers messages as its command line says: deny, silent, locked, printless. Prints every message it sees, but for silent.
//! One that denies does so twice.
#![no_std]
#![no_main]

mod inmate;
use inmate::*;

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let way = command();
    if way == b'p' {
        // Says by its state whether the hypervisor refuses to print for it.
        COMM.set_state(if print(b'x') == -1 { SHUT_DOWN } else { FAILED });
        stop();
    }
    if way == b'l' {
        COMM.set_state(LOCKED);
    }
    say!("message inmate: flags {:08x}", COMM.word(0x14));
    let mut denials = if way == b'd' { 2 } else { 0 };
    loop {
        pause();
        if way == b's' {
            continue;
        }
        let Some(message) = COMM.message() else { continue };
        say!("message inmate: message {message:08x}");
        if message != SHUTDOWN {
            COMM.reply(RECEIVED);
        } else if denials > 0 {
            denials -= 1;
            COMM.reply(DENIED);
        } else {
            COMM.end();
        }
    }
}
