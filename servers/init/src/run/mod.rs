//! What runs under the kernel.

mod board;
mod crash;
mod devices;
mod machine;
mod memory;
mod spawn;
mod supervise;
mod ward;
mod warden;
mod window;

use alloc::string::String;
use core::fmt::Display;
use ipc::slots;
use rt::{Cap, log};

/// Starts the system and supervises it for ever.
pub fn main() -> ! {
    rt::start::set_name("init");
    match machine::boot().and_then(supervise::Supervisor::start) {
        Ok(supervisor) => {
            // The line that tells whoever measures that every server was started.
            log!("ready");
            supervisor.run()
        }
        Err(reason) => fail(&reason),
    }
}

/// Ends the system, saying why.
fn fail(reason: &str) -> ! {
    log!("the system cannot go on: {reason}");
    loop {
        // If the kernel refuses, there is nothing else to do than to stay.
        let _ = Cap::<rt::Console>::new(slots::CONSOLE).halt(true);
        rt::calls::yield_now();
    }
}

/// Says what was being done when a kernel call failed.
trait Say<T> {
    fn say(self, what: impl Display) -> Result<T, String>;
}

impl<T> Say<T> for rt::Result<T> {
    fn say(self, what: impl Display) -> Result<T, String> {
        self.map_err(|error| alloc::format!("{what}: {error}"))
    }
}
