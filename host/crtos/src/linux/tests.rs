use super::*;
use hypervisor_abi::config::CellParts;

const MIB: u64 = 1 << 20;

/// A kernel of so many MiB in memory that prefers to be at 16 MiB.
fn file(mib: u64, relocatable: bool) -> Vec<u8> {
    let mut file = vec![0x90; 1024 + 0x1000];
    file[..1024].fill(0);
    let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1f4, &0x100u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &(2 * MIB as u32).to_le_bytes());
    put(0x234, &[u8::from(relocatable), 21, 1, 0]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &(16 * MIB).to_le_bytes());
    put(0x260, &((mib * MIB) as u32).to_le_bytes());
    file
}

/// A cell that starts at 0, with 1 MiB there, and memory behind the communication region.
fn cell(high: &[(u64, u64)]) -> Vec<u8> {
    let ram = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE | MemoryFlags::DMA | MemoryFlags::LOADABLE;
    let comm = MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::COMM_REGION;
    let mut memory = vec![Memory::new(0x5100_0000, 0, MIB, ram), Memory::new(0, MIB, PAGE, comm)];
    memory.extend(high.iter().map(|&(start, size)| Memory::new(0x5110_0000, start, size, ram)));
    let parts = CellParts { name: "linux", cpu_set: &[8], memory: &memory, ..CellParts::default() };
    let mut bytes = vec![0; parts.size()];
    parts.write(&mut bytes).unwrap();
    bytes
}

fn place(high: &[(u64, u64)], kernel: &[u8], initrd: Option<&[u8]>) -> Result<Vec<(usize, u64)>> {
    let bytes = cell(high);
    let cell = CellConfig::parse(&bytes).unwrap();
    let images = images(&cell, &Guest { kernel, initrd, command_line: "quiet" })?;
    Ok(images.iter().map(|(bytes, at)| (bytes.len(), *at)).collect())
}

#[test]
fn where_it_prefers_to_be() {
    let initrd = [0; 5000];
    let images = place(&[(2 * MIB, 64 * MIB)], &file(8, false), Some(&initrd)).unwrap();
    assert_eq!(images, [(LOW_SIZE as usize, 0), (0x1000, 16 * MIB), (5000, 66 * MIB - 2 * PAGE)]);
}

#[test]
fn elsewhere_if_it_can_be_moved() {
    let high = [(17 * MIB, 9 * MIB), (0x2000_0000 + PAGE, 32 * MIB)];
    let images = place(&high, &file(8, true), Some(&[0])).unwrap();
    // At a multiple of 2 MiB; the initial file system is not between.
    assert_eq!(images[1..], [(0x1000, 18 * MIB), (1, 0x2000_0000 + 32 * MIB)]);
    let images = place(&high, &file(16, true), None).unwrap();
    assert_eq!(images[1..], [(0x1000, 0x2000_0000 + 2 * MIB)]);
    let error = place(&high, &file(8, false), None).unwrap_err().to_string();
    assert_eq!(error, "the kernel needs 8 MiB of loadable memory in one region below 4 GiB, at 0x1000000");
}

#[test]
fn no_room() {
    assert!(place(&[(2 * MIB, 64 * MIB)], &file(80, true), None).is_err());
    // The kernel and the low memory leave one page, and one too few.
    let high = [(16 * MIB, 8 * MIB + PAGE)];
    assert_eq!(place(&high, &file(8, false), Some(&[0; 4096])).unwrap()[2].1, 24 * MIB);
    let initrd = vec![0; MIB as usize];
    assert!(place(&high, &file(8, false), Some(&initrd)).is_err());
    // Below the kernel is room too.
    assert_eq!(place(&[(8 * MIB, 16 * MIB)], &file(8, false), Some(&initrd)).unwrap()[2].1, 15 * MIB);
    // It would move itself to where it prefers to be.
    assert!(place(&[(2 * MIB, 16 * MIB)], &file(8, true), None).is_err());
    // What the page tables do not map is not there.
    assert!(place(&[(1 << 32, 64 * MIB)], &file(8, true), None).is_err());
}

#[test]
fn not_a_kernel() {
    let good = file(8, true);
    let parse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        Kernel::parse(&file).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(parse(&|_| ()), Ok(()));
    assert_eq!(parse(&|file| file[0x202] = 0), Err("this is no Linux kernel in the bzImage format".into()));
    let old = Err("this kernel has no 64-bit entry: it is too old, or a 32-bit one".into());
    assert_eq!(parse(&|file| file[0x236] = 0), old);
    assert_eq!(parse(&|file| file[0x206] = 0x0b), old);
    let damaged = Err("the kernel's header is damaged".into());
    assert_eq!(parse(&|file| file[0x230..0x234].fill(0)), damaged);
    assert_eq!(parse(&|file| file[0x201] = 0x10), damaged);
    for length in 0..good.len() - 15 {
        assert!(parse(&|file| file.truncate(length)).is_err(), "{length}");
    }
    // Whatever the fields say, the answer is an error or a place that there is.
    for at in 0x1f1..0x264 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut file = good.clone();
            file[at] = value;
            for (length, start) in place(&[(2 * MIB, 64 * MIB)], &file, Some(&[0])).unwrap_or_default() {
                assert!(start + length as u64 <= 66 * MIB, "{at:#x} {value:#x}");
            }
        }
    }
}

#[test]
fn the_command_line_has_a_limit() {
    let bytes = cell(&[(2 * MIB, 64 * MIB)]);
    let cell = CellConfig::parse(&bytes).unwrap();
    let kernel = file(8, true);
    let long = "x".repeat(2048);
    let with = |command_line| images(&cell, &Guest { kernel: &kernel, initrd: None, command_line });
    assert!(with(&long[..2047]).is_ok());
    assert!(with(&long).is_err() && with("a\0b").is_err());
}
