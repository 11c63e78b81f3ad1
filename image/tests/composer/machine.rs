//! The root cell's configuration, from a stored description of a machine (QEMU's q35 as Debian sees it).

use std::fs;
use std::path::Path;

use hypervisor_abi::check;
use hypervisor_abi::config::{CellConfig, MemoryFlags, PciKind, SystemConfig};
use image::machine::MachineError;
use image::{Layout, Machine};

const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000a0000-000bffff : PCI Bus 0000:00
000f0000-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-4fffffff : System RAM
  01000000-01e00eb0 : Kernel code
50000000-65ffffff : Reserved
66000000-7ffdffff : System RAM
7ffe0000-7fffffff : Reserved
80000000-afffffff : PCI Bus 0000:00
b0000000-bfffffff : PCI MMCONFIG 0000 [bus 00-ff]
  b0000000-bfffffff : Reserved
    b0000000-bfffffff : pnp 00:04
c0000000-febfffff : PCI Bus 0000:00
  febff000-febfffff : 0000:00:02.0
fec00000-fec003ff : IOAPIC 0
fed00000-fed003ff : HPET 0
  fed00000-fed003ff : PNP0103:00
fed1c000-fed1ffff : Reserved
fee00000-fee00fff : Local APIC
feffc000-feffffff : Reserved
fffc0000-ffffffff : Reserved
100000000-17fffffff : System RAM
800000000-fffffffff : PCI Bus 0000:00
  800000000-800003fff : 0000:00:02.0
    800000000-800003fff : virtio-pci-modern
fd00000000-ffffffffff : Reserved
";

fn config_space(caps: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut config = vec![0u8; 256];
    config[..4].copy_from_slice(&[0xf4, 0x1a, 0x49, 0x10]);
    config[6] = 0x10;
    config[0x34] = caps.first().map_or(0, |c| c.1);
    for (index, (id, at, body)) in caps.iter().enumerate() {
        let at = usize::from(*at);
        config[at] = *id;
        config[at + 1] = caps.get(index + 1).map_or(0, |c| c.1);
        config[at + 2..at + 2 + body.len()].copy_from_slice(body);
    }
    config
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn q35(root: &Path) {
    write(root, "proc/iomem", IOMEM.as_bytes());
    write(root, "sys/devices/system/cpu/online", b"0-3\n");
    let mut madt = vec![0; 36];
    madt.extend(0xfee0_0000u32.to_le_bytes());
    madt.extend([0; 4]);
    madt.extend([1, 12, 0, 0]);
    madt.extend(0xfec0_0000u32.to_le_bytes());
    madt.extend([0; 4]);
    write(root, "sys/firmware/acpi/tables/APIC", &madt);
    let mut mcfg = vec![0; 44];
    mcfg.extend(0xb000_0000u64.to_le_bytes());
    mcfg.extend([0, 0, 0, 255, 0, 0, 0, 0]);
    write(root, "sys/firmware/acpi/tables/MCFG", &mcfg);
    let mut facp = vec![0; 244];
    facp[76..78].copy_from_slice(&[8, 6]);
    write(root, "sys/firmware/acpi/tables/FACP", &facp);
    let pci = "sys/bus/pci/devices";
    let mut bridge = config_space(&[])[..64].to_vec();
    bridge[..4].copy_from_slice(&[0x86, 0x80, 0xc0, 0x29]);
    write(root, &format!("{pci}/0000:00:00.0/config"), &bridge);
    write(root, &format!("{pci}/0000:00:00.0/resource"), b"0x0 0x0 0x0\n");
    // Virtio: MSI-X table in BAR 1, modern registers in 64-bit BAR 4, ports in BAR 0.
    let msix = [2, 0, 1, 0, 0, 0, 1, 8, 0, 0];
    let config = config_space(&[(0x11, 0x98, &msix), (0x09, 0x84, &[0x14, 5]), (0x05, 0x50, &[0x86, 1])]);
    write(root, &format!("{pci}/0000:00:02.0/config"), &config);
    let resource = "\
0x000000000000c000 0x000000000000c03f 0x0000000000040101
0x00000000febff000 0x00000000febfffff 0x0000000000040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000800000000 0x0000000800003fff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
";
    write(root, &format!("{pci}/0000:00:02.0/resource"), resource.as_bytes());
}

fn layout() -> Layout {
    Layout::from_manifest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/default.toml")).unwrap()
}

#[test]
fn linux_keeps_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let machine = Machine::read(dir.path()).unwrap();
    assert_eq!((machine.pm_timer, machine.mmconfig), (Some(0x608), Some((0xb000_0000, 255))));
    let bytes = image::cell::root_config(&layout(), &machine).unwrap();
    let system = SystemConfig::parse(&bytes).unwrap();
    assert_eq!(system.total_size(), bytes.len() as u64);
    assert_eq!(system.hypervisor_memory().phys_start(), 0x5000_0000);
    assert_eq!(system.mmconfig(), Some((0xb000_0000, 0x1000_0000)));
    let root = system.root_cell();
    assert_eq!(root.cpus().collect::<Vec<_>>(), [0, 1, 2, 3]);

    // Region by region: where, and whether it may be written and executed.
    let (r, rw, rwx) = ("r", "rw", "rwx");
    let seen: Vec<_> = root
        .memory()
        .iter()
        .map(|m| {
            assert_eq!(m.phys_start(), m.virt_start());
            let flags = m.flags() & (MemoryFlags::READ | MemoryFlags::WRITE | MemoryFlags::EXECUTE);
            (m.phys_start(), m.size(), ["", "r", "?", "rw", "?", "rx", "?", "rwx"][flags.bits() as usize])
        })
        .collect();
    assert_eq!(
        seen,
        [
            (0x541f_f000, 0x1000, r),
            (0x5420_0000, 0x1000_0000, rwx),
            (0x6420_0000, 0x80_0000, rw),
            (0x64a0_0000, 0x80_0000, r),
            (0, 0xa_0000, rwx),
            (0xa_0000, 0x2_0000, rw),
            (0xc_0000, 0x4ff4_0000, rwx),
            (0x5100_0000, 0x31f_f000, rwx),
            (0x6520_0000, 0x1ae0_0000, rwx),
            (0xfed0_0000, 0x1000, rw),
            (0xfed1_c000, 0x4000, rwx),
            (0xfeff_c000, 0x4000, rwx),
            (0xfffc_0000, 0x8004_0000, rwx),
            (0x8_0000_0000, 0x4000, rw),
        ]
    );

    let devices = root.pci_devices();
    assert_eq!(devices[0].kind(), Some(PciKind::Ivshmem));
    assert_eq!((devices[0].bdf(), devices[0].shmem_dev_id), (0x70, 0));
    assert_eq!(devices[1].bdf(), 0);
    let virtio = &devices[2];
    assert_eq!((virtio.bdf(), virtio.num_msix_vectors.get()), (0x10, 3));
    assert_eq!((virtio.msix_address.get(), virtio.msix_region_size.get()), (0xfebf_f000, 0x1000));
    assert_eq!((virtio.num_msi_vectors, virtio.msi_flags), (8, 3));
    let masks = virtio.bar_mask.map(|m| m.get());
    assert_eq!(masks, [0xffff_ffc0, 0xffff_f000, 0, 0, 0xffff_c000, 0xffff_ffff]);
    // Every byte of configuration space behind the header belongs to one capability, and may be written.
    let caps = root.caps_of(virtio);
    for offset in 0x40..0x100 {
        let covering: Vec<_> = caps.iter().filter(|cap| cap.contains(offset)).collect();
        assert!(covering.len() == 1 && covering[0].writable(), "{offset:#x}: {covering:?}");
    }
    assert!((0..24).all(|pin| root.irqchips()[0].owns_pin(pin)) && !root.irqchips()[0].owns_pin(24));
    let port = |port: u32| root.ports().iter().any(|p| (u32::from(p.base())..p.end()).contains(&port));
    assert!(port(0) && port(0xcf7) && !port(0xcf8) && !port(0xcff) && port(0xd00) && port(0xffff));
}

#[test]
fn what_the_cell_needs_is_part_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let machine = Machine::read(dir.path()).unwrap();
    let root_bytes = image::cell::root_config(&layout(), &machine).unwrap();
    let cpus = image::cell::cell_cpus(&layout(), &machine);
    assert_eq!(cpus, [3]);
    let cell_bytes = image::cell::inmate_config(&layout(), &cpus, None).unwrap();
    let (system, cell) = (SystemConfig::parse(&root_bytes).unwrap(), CellConfig::parse(&cell_bytes).unwrap());
    for region in cell.memory().iter().filter(|m| !m.flags().contains(MemoryFlags::COMM_REGION)) {
        let inside =
            system.root_cell().memory().iter().any(|m| {
                m.contains_phys(region.phys_start()) && m.contains_phys(region.phys_start() + region.size() - 1)
            });
        assert!(inside, "{:#x}", region.phys_start());
    }
}

#[test]
fn what_linux_uses_now_can_be_planned_to_be_reserved() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let reserved = image::cell::root_config(&layout(), &Machine::read(dir.path()).unwrap()).unwrap();
    // The same machine, booted without the option.
    let iomem = IOMEM.replace("4fffffff : System RAM", "7ffdffff : System RAM");
    let iomem: Vec<&str> = iomem.lines().filter(|l| !l.starts_with("50000000") && !l.starts_with("66000000")).collect();
    write(dir.path(), "proc/iomem", iomem.join("\n").as_bytes());
    let mut machine = Machine::read(dir.path()).unwrap();
    assert!(matches!(image::cell::root_config(&layout(), &machine), Err(MachineError::NotReserved { .. })));
    let (start, end) = layout().reserved();
    let end = end.next_multiple_of(1 << 20);
    assert!(!machine.reserve(start, end).unwrap());
    assert!(machine.reserve(start, end).unwrap(), "it is now");
    assert_eq!(image::cell::root_config(&layout(), &machine).unwrap(), reserved);
    assert!(matches!(machine.reserve(0x8000_0000, 0x9000_0000), Err(MachineError::NoMemory { address: 0x8000_0000 })));
}

#[test]
fn the_hypervisors_own_checks_pass() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let machine = Machine::read(dir.path()).unwrap();
    let root_bytes = image::cell::root_config(&layout(), &machine).unwrap();
    let cell_bytes = image::cell::inmate_config(&layout(), &[3], None).unwrap();
    let mut found = Vec::new();
    check::system(&SystemConfig::parse(&root_bytes).unwrap(), &mut |finding| found.push(finding.to_string()));
    check::cell(&CellConfig::parse(&cell_bytes).unwrap(), check::Role::NonRoot, &mut |finding| {
        found.push(finding.to_string());
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_machine_that_cannot_hold_it_says_why() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let refuse = |change: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::read(dir.path()).unwrap();
        change(&mut machine);
        image::cell::root_config(&layout(), &machine).unwrap_err().to_string()
    };
    let message = refuse(&|machine| machine.memory.iter_mut().for_each(|r| r.is_ram |= r.start == 0x5000_0000));
    assert_eq!(
        message,
        "Linux uses memory at 0x50000000-0x65200000 that this system needs: boot Linux with memmap=338M$0x50000000 (in a boot loader's file the $ may need a backslash)"
    );
    let message = refuse(&|machine| machine.functions[1].bdf = 0x70);
    assert!(message.starts_with("PCI address 00:0e.0 of [ivshmem.shadow] is in use"), "{message}");
    let message = refuse(&|machine| machine.online_cpus = vec![0]);
    assert!(message.starts_with("1 processors are online and the cell needs 1 beside processor 0"), "{message}");

    write(dir.path(), "proc/iomem", b"00000000-00000000 : System RAM\n00000000-00000000 : Reserved\n");
    assert!(matches!(Machine::read(dir.path()).unwrap_err(), MachineError::Hidden));
    write(dir.path(), "proc/iomem", b"hello\n");
    let message = Machine::read(dir.path()).unwrap_err().to_string();
    assert_eq!(message, "/proc/iomem, line 1: not understood: \"hello\"");
    let message = Machine::read(&dir.path().join("nothing")).unwrap_err().to_string();
    assert!(message.starts_with("cannot read /sys/devices/system/cpu/online"), "{message}");
}

/// The default system with the virtio function, or a changed one, of that machine.
fn with_pci(directory: &Path, text: &str) -> Result<Layout, image::Diagnostics> {
    let manifest = directory.join("pci.toml");
    let default = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/default.toml")).unwrap();
    fs::write(&manifest, default + text).unwrap();
    Layout::from_manifest(&manifest)
}

const DISK: &str = r#"
[pci.disk]
id = "1af4:1049"
bdf = "00:02.0"
bars = [
    { bar = 1, address = 0xfebf_f000, size = "4 KiB" },
    { bar = 4, address = 0x8_0000_0000, size = "16 KiB" },
]
ports = [{ bar = 0, first = 0xc000, count = 64 }]
msix = { vectors = 2, bar = 1 }
[memory.disk-registers]
section = "disk.bar4"
"#;

#[test]
fn a_function_of_the_machine_goes_to_the_cell() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let machine = Machine::read(dir.path()).unwrap();
    for text in [DISK.to_owned(), DISK.replace("bdf = \"00:02.0\"\n", "")] {
        let layout = with_pci(dir.path(), &text).unwrap();
        let root_bytes = image::cell::root_config(&layout, &machine).unwrap();
        let cell_bytes = image::cell::inmate_config(&layout, &[3], Some(&machine)).unwrap();
        let (system, cell) = (SystemConfig::parse(&root_bytes).unwrap(), CellConfig::parse(&cell_bytes).unwrap());
        let given = cell.pci_devices().iter().find(|d| d.bdf() == 0x10).unwrap();
        let kept = system.root_cell().pci_devices().iter().find(|d| d.bdf() == 0x10).unwrap();
        assert_eq!((given.kind(), given.num_msix_vectors.get()), (Some(PciKind::Device), 3));
        assert_eq!((given.bar_mask, given.msix_address.get()), (kept.bar_mask, kept.msix_address.get()));
        assert_eq!(cell.caps_of(given).len(), system.root_cell().caps_of(kept).len());
        let reaches = |address| cell.memory().iter().any(|m| m.contains_phys(address));
        assert!(reaches(0x8_0000_3fff) && !reaches(0xfebf_f000), "all but the MSI-X table");
    }
    let layout = with_pci(dir.path(), DISK).unwrap();
    let message = image::cell::inmate_config(&layout, &[3], None).unwrap_err().to_string();
    assert!(message.starts_with("[pci.disk] needs a machine"), "{message}");
}

#[test]
fn a_function_that_is_otherwise_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    q35(dir.path());
    let machine = Machine::read(dir.path()).unwrap();
    for (from, to, part) in [
        ("00:02.0", "00:03.0", "lies at 00:03.0, where this machine has nothing"),
        ("1af4:1049", "8086:10d3", "has id 8086:10d3, but the function at 00:02.0 has 1af4:1049"),
        ("id = \"1af4:1049\"\nbdf = \"00:02.0\"", "id = \"8086:10d3\"", "has id 8086:10d3, which no function"),
        ("0xfebf_f000", "0xfebf_e000", "has BAR 1 at 0xfebfe000, 0x1000 bytes, but on this machine it is 0xfebff000"),
        ("first = 0xc000", "first = 0xc040", "has BAR 0 at 0xc040, 0x40 bytes, but on this machine it is 0xc000"),
        ("{ bar = 4", "{ bar = 2", "has BAR 2 at 0x800000000, 0x4000 bytes, but on this machine it is not there"),
        ("vectors = 2", "vectors = 4", "has 4 interrupts, and this machine's function 3"),
    ] {
        let text = DISK.replace(from, to).replace("[memory.disk-registers]\nsection = \"disk.bar4\"\n", "");
        let layout = with_pci(dir.path(), &text).unwrap();
        let message = image::cell::root_config(&layout, &machine).unwrap_err().to_string();
        assert!(
            message.contains(part) && message.ends_with("correct the manifest, with what lspci -vv shows"),
            "{message}"
        );
    }
}
