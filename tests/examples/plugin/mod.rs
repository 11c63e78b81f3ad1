//! What the plug-ins have in common: QEMU's plug-in interface, and the words in a file through which they report.
//!
//! `-plugin libNAME.so,words=PATH`: PATH is a file of at least `size` bytes, mapped by QEMU and by whoever reads it
//! ([`tests::words::Words`]).

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::OpenOptions;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// The version of the plug-in interface that this is written for. QEMU 7.2 has 1.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// What QEMU calls a plug-in by.
pub type Id = u64;
/// A translated block of instructions.
pub type Block = *mut c_void;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, Block));
    pub fn qemu_plugin_tb_n_insns(block: Block) -> usize;
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: Block,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// The callback neither reads nor writes the guest's registers.
pub const NO_REGISTERS: c_int = 0;

static WORDS: OnceLock<&'static [AtomicU64]> = OnceLock::new();

/// The words of the file; none before it is mapped.
pub fn words() -> Option<&'static [AtomicU64]> {
    WORDS.get().copied()
}

/// Maps the file of `size` bytes, and has translated blocks given to `translated`. Not 0 makes QEMU give up.
///
/// # Safety
///
/// All but `size` and `translated` are those of QEMU's call of `qemu_plugin_install`: `argv` is `argc` strings.
pub unsafe fn install(
    id: Id,
    argc: c_int,
    argv: *const *const c_char,
    size: usize,
    translated: extern "C" fn(Id, Block),
) -> c_int {
    for number in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: `number` is below `argc`, and each element is a string that outlives this call.
        let argument = unsafe { CStr::from_ptr(*argv.add(number)) }.to_string_lossy();
        let Some(path) = argument.strip_prefix("words=") else {
            continue;
        };
        match map(path, size) {
            Ok(words) if WORDS.set(words).is_ok() => {
                // SAFETY: `id` is the one that QEMU has given us, and the callback is of the type that the interface asks for.
                unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
                return 0;
            }
            Ok(_) => {}
            Err(error) => eprintln!("plug-in: {path}: {error}"),
        }
    }
    eprintln!("plug-in: words=PATH is needed once");
    1
}

fn map(path: &str, size: usize) -> std::io::Result<&'static [AtomicU64]> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() < size as u64 {
        return Err(std::io::Error::other("too short"));
    }
    // SAFETY: a new mapping where the kernel likes, of a file that is as long as it.
    let address =
        unsafe { mmap(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
    // SAFETY: the mapping is page-aligned, `size` bytes long, stays for the life of the process, and is only ever accessed as atomics,
    // here and by the reader.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), size / 8) })
}
