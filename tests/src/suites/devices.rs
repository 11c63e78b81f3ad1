//! PCI functions in cells of their own (`hypervisor/inmates/device.c`): by a pin of the interrupt controller, MSI and MSI-X; Linux
//! does not see them meanwhile, and its drivers work with them afterwards.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hypervisor_abi::config::IrqChip;

use super::inmates::{Console, FIRST, create, load, prepare, start};
use super::support::{function, same};
use crate::inmate::Inmate;
use crate::lan;
use crate::suite::{Bench, State, Suite, Wanted, case};

/// Under the PREEMPT_RT kernel.
pub const SUITE: Suite = Suite {
    name: "devices",
    wanted: Some(Wanted {
        devices: &["pci-serial,addr=1a.0", "e1000e,addr=1b.0,romfile=", "edu,addr=1e.0"],
        lan: Some("e1000,addr=1d.0,mac=52:54:00:12:34:56,romfile="),
        ..Wanted::new(State::Installed)
    }),
    cases: &[
        case("edu_pin", |bench| edu(bench, PIN)),
        case("edu_msi", |bench| edu(bench, MSI)),
        case("e1000_pin", e1000),
        case("e1000e_msi", |bench| e1000e(bench, MSI)),
        case("e1000e_msix", |bench| e1000e(bench, MSIX)),
        case("serial_pin", serial),
        case("give_back", give_back),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

// What the inmate's command line says.
const PIN: &str = "pin\0";
const MSI: &str = "msi\0";
const MSIX: &str = "x\0";

/// What can be compared of a function: addresses and lines. The command word is the driver's, the status changes by itself.
fn header(bench: &mut Bench<'_>, bdf: &str) -> Result<String> {
    let config = format!("/sys/bus/pci/devices/0000:{bdf}/config");
    bench.ok(&format!("od -An -v -tx1 -N 4 {config}; od -An -v -tx1 -j 8 -N 56 {config}"))
}

/// The function takes a hundred interrupts in a cell, and is back as it was.
fn passed(bench: &mut Bench<'_>, bdf: &str, id: &str, way: &str) -> Result<()> {
    prepare(bench)?;
    let before = header(bench, bdf)?;
    let mut cell = Inmate::new("device", &[3], FIRST);
    if way == PIN {
        cell.chips.push(IrqChip::new(0xfec0_0000, 0, 0xff_0000));
    }
    function(bench, &format!("0000:{bdf}"), &mut cell)?;
    create(bench, &cell)?;
    let seen = bench.ok(&format!("od -An -v -tx1 -N 4 /sys/bus/pci/devices/0000:{bdf}/config"))?;
    same("what Linux sees of the function", seen.trim(), "ff ff ff ff")?;
    fs::write(bench.scratch.join("line"), way)?;
    load(bench, "device", "line@0x1000")?;
    let mut console = Console::now(bench)?;
    start(bench, "device", "device.bin")?;
    same("identification", console.wait_for("device inmate: id")?, id.into())?;
    // One for each that is asked for; QEMU's e1000e now and then sends one more.
    let count = u32::from_str_radix(&console.wait_for("device inmate: interrupts")?, 16)?;
    if !(100..200).contains(&count) {
        bail!("{count} interrupts instead of 100");
    }
    bench.ok("crtos cell shutdown device && crtos cell destroy device")?;
    same("header", header(bench, bdf)?, before)
}

fn edu(bench: &mut Bench<'_>, way: &str) -> Result<()> {
    const BDF: &str = "00:1e.0";
    passed(bench, BDF, "11e81234", way)?;
    // Linux has no driver for it: its identification register through the BAR.
    let resource = format!("/sys/bus/pci/devices/0000:{BDF}");
    bench.ok(&format!("echo 1 > {resource}/enable"))?;
    let id = bench.ok(&format!(
        "perl -e 'open F, \"+<{resource}/resource0\" or die; my $size = 4096;
            my $map = syscall(9, 0, $size, 1, 1, fileno F, 0); die if $map == -1;
            printf \"%08x\", unpack \"L\", unpack \"P4\", pack \"Q\", $map'; echo 0 > {resource}/enable"
    ))?;
    same("edu's identification, for Linux", id.as_str(), "010000ed")
}

fn e1000(bench: &mut Bench<'_>) -> Result<()> {
    passed(bench, "00:1d.0", "100e8086", PIN)?;
    let name = bench.ok("modprobe e1000 && cd /sys/bus/pci/devices/0000:00:1d.0/net && set -- * &&
         ip address add 10.0.0.2/24 dev $1 && ip link set $1 up && echo $1")?;
    let mut cable = bench.vm()?.lan()?;
    let mac = lan::who_has(&mut cable, [10, 0, 0, 2], Duration::from_secs(60))?;
    same("hardware address", mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56])?;
    bench.ok(&format!("ip link set {} down && modprobe -r e1000", name.trim())).map(drop)
}

fn e1000e(bench: &mut Bench<'_>, way: &str) -> Result<()> {
    passed(bench, "00:1b.0", "10d38086", way)?;
    // Its driver takes an interrupt when the interface comes up.
    let counts = bench.ok(
        "modprobe e1000e && cd /sys/bus/pci/devices/0000:00:1b.0/net && set -- * && ip link set $1 up
         for n in $(seq 300); do
             sum=$(awk -v name=$1 '$NF ~ name { for (n = 2; n <= 5; n++) sum += $n } END { print sum + 0 }' /proc/interrupts)
             [ $sum -gt 0 ] && break; sleep 0.1
         done
         echo $sum; ip link set $1 down; modprobe -r e1000e",
    )?;
    let count: u32 = counts.trim().parse().context("a number of interrupts")?;
    if count == 0 {
        bail!("Linux's driver got no interrupt");
    }
    Ok(())
}

fn serial(bench: &mut Bench<'_>) -> Result<()> {
    const DRIVER: &str = "/sys/bus/pci/drivers/serial";
    bench.ok(&format!("[ ! -e {DRIVER}/0000:00:1a.0 ] || echo 0000:00:1a.0 > {DRIVER}/unbind"))?;
    passed(bench, "00:1a.0", "00021b36", PIN)?;
    // Linux's driver tries the registers before it believes them; what is written leaves by interrupts.
    let sent = bench.ok(&format!(
        "echo 0000:00:1a.0 > {DRIVER}/bind && cd /sys/bus/pci/devices/0000:00:1a.0/tty && set -- tty* &&
         stty -F /dev/$1 raw -echo && echo 'a line of twenty-odd bytes' > /dev/$1 && line=${{1#ttyS}} &&
         grep \"^$line: uart:16550A\" /proc/tty/driver/serial && echo 0000:00:1a.0 > {DRIVER}/unbind"
    ))?;
    if !sent.contains("tx:27") {
        bail!("Linux's driver did not send 27 bytes: {sent}");
    }
    Ok(())
}

fn give_back(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos disable")?;
    same("CPUs of Linux", bench.ok("nproc")?, "4\n".into())
}
