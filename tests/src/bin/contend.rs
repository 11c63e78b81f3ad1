//! Keeps a processor busy with one thing. `contend fpu` loads its FPU registers for ever; `contend exits COUNT` reads so many times the
//! configuration space of a PCI function, which leaves a guest with each of its 64 words.
#![allow(unsafe_code)] // Loads FPU registers.

use std::arch::x86_64::{_fxrstor64, _fxsave64};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

#[repr(align(16))]
struct Area([u8; 512]);

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next();
    let count = arguments.next().and_then(|text| text.parse::<u64>().ok());
    match (what.as_deref(), count) {
        (Some("fpu"), None) => {
            let mut area = Area([0; 512]);
            // SAFETY: an aligned area of the right size; what is loaded is what was saved from this thread.
            unsafe { _fxsave64(area.0.as_mut_ptr()) };
            loop {
                // SAFETY: as above.
                unsafe { _fxrstor64(area.0.as_ptr()) };
            }
        }
        (Some("exits"), Some(count)) => {
            let function = File::open("/sys/bus/pci/devices/0000:00:00.0/config")?;
            for _ in 0..count {
                function.read_exact_at(&mut [0; 256], 0)?;
            }
            Ok(())
        }
        _ => {
            eprintln!("contend: fpu, or exits COUNT");
            std::process::exit(2);
        }
    }
}
