//! What cannot work is refused in one sentence that names cause and cure, and nothing half-done is
//! left behind.

use anyhow::{Result, bail};

use super::commands;
use super::support::same;
use crate::suite::{Bench, State, Suite, Wanted, case, said};

const MACHINE: Wanted = Wanted::new(State::Installed);

/// A machine where nothing is loaded yet.
pub const INSTALLED: Suite = Suite {
    name: "refusals",
    wanted: Some(MACHINE),
    cases: &[
        case("no_module", no_module),
        case("no_hypervisor", no_hypervisor),
        case("no_cell", no_cell),
        case("busy", busy),
        case("guards", guards),
        case("kexec", kexec),
        case("dmesg", |bench| bench.dmesg_is_clean()),
    ],
};

/// A CPU without SVM.
pub const NO_SVM: Suite = Suite {
    name: "refusals-no-svm",
    wanted: Some(Wanted { cpu: Some("EPYC,-svm"), ..MACHINE }),
    cases: &[
        case("hardware_check", commands::hardware_without_svm),
        case("enable", |bench| {
            refused(bench, "crtos enable", &["SVM"])?;
            nothing_left(bench)?;
            bench.dmesg_is_clean()
        }),
    ],
};

/// No memory reserved.
pub const NO_MEMORY: Suite = Suite {
    name: "refusals-no-memory",
    wanted: Some(Wanted { reserved: false, ..MACHINE }),
    cases: &[case("enable", |bench| {
        refused(bench, "crtos enable", &["memmap="])?;
        nothing_left(bench)?;
        bench.dmesg_is_clean()
    })],
};

/// The command fails with one line that contains each of `words`.
fn refused(bench: &mut Bench<'_>, command: &str, words: &[&str]) -> Result<()> {
    let output = bench.sh(command)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status == 0 || !output.stdout.is_empty() {
        bail!("{command}: not refused\n{}", said(&output));
    }
    if text.trim().is_empty() || text.trim_end().lines().count() != 1 {
        bail!("{command}: more or less than one sentence:\n{text}");
    }
    for word in words {
        if !text.contains(word) {
            bail!("{command}: the sentence does not name {word}: {text}");
        }
    }
    Ok(())
}

/// A failed enable has unloaded what it loaded, and all CPUs are there.
fn nothing_left(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("! grep -q ^crtos /proc/modules && test $(nproc) = 4").map(drop)
}

fn no_module(bench: &mut Bench<'_>) -> Result<()> {
    refused(bench, "crtos cell list", &["crtos enable"])?;
    refused(bench, "crtos disable", &["crtos"])?;
    let run = bench.sh("crtos run /bin/true")?;
    same("status of crtos run", run.status, 125)?;
    bench.ok("mv /usr/lib/crtos/crtos.ko /tmp")?;
    refused(bench, "crtos enable", &["crtos.ko"])?;
    // With versioned symbols, the kernel looks at its kind rather than at its release.
    bench.ok("sed 's/SMP preempt_rt/SMP preempt_no/' /tmp/crtos.ko > /usr/lib/crtos/crtos.ko")?;
    refused(bench, "crtos enable", &["another kernel"])?;
    bench.ok("mv /tmp/crtos.ko /usr/lib/crtos/crtos.ko")?;
    nothing_left(bench)
}

fn no_hypervisor(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("insmod /usr/lib/crtos/crtos.ko")?;
    refused(bench, "crtos cell create", &["crtos enable"])?;
    refused(bench, "crtos disable", &["not enabled"])?;
    refused(bench, "crtos run /bin/true", &["crtos enable"])?;
    bench.ok("rmmod crtos").map(drop)
}

fn no_cell(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos enable")?;
    refused(bench, "crtos run /bin/true", &["cell"])?;
    refused(bench, "crtos cell start", &["srtos"])?;
    refused(bench, "crtos cell create /etc/passwd", &["configuration"])?;
    bench.ok("crtos disable && rmmod crtos").map(drop)
}

fn busy(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos enable && crtos cell create")?;
    refused(bench, "crtos enable", &["already"])?;
    refused(bench, "crtos disable", &["cell"])?;
    refused(bench, "rmmod crtos", &["use"])?;
    bench.ok("crtos cell destroy && crtos disable && rmmod crtos").map(drop)
}

/// What Linux must not do while a cell is there; each with its reason in the kernel's log.
fn guards(bench: &mut Bench<'_>) -> Result<()> {
    bench.ok("crtos enable && crtos cell create")?;
    for (what, command, reason) in [
        ("start the cell's processor", "echo 1 > /sys/devices/system/cpu/cpu3/online", "CPU 3 belongs to a cell"),
        ("stop another one", "echo 0 > /sys/devices/system/cpu/cpu2/online", "CPU 2 cannot go off line"),
        ("suspend", "echo freeze > /sys/power/state", "no suspend while"),
    ] {
        let script = format!("dmesg -C; if {command} 2>/dev/null; then echo done; fi; dmesg");
        let said = bench.ok(&script)?;
        if said.contains("done\n") || !said.contains(reason) {
            bail!("Linux may {what}, or the log does not say \"{reason}\":\n{said}");
        }
    }
    same("processors of Linux", bench.ok("nproc")?, "3\n".into())?;
    bench.ok("crtos cell destroy && crtos disable && rmmod crtos")?;
    // And afterwards all is as ever.
    bench.ok("cd /sys/devices/system/cpu/cpu2 && echo 0 > online && echo 1 > online && test $(nproc) = 4").map(drop)
}

/// Loads a page as a kernel to boot into, and unloads it again; prints the error's number.
const KEXEC: &str = r#"python3 -c "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
page = ctypes.create_string_buffer(4096)
segment = (ctypes.c_ulong * 4)(ctypes.addressof(page), 4096, 0x1000000, 4096)
call = lambda count: libc.syscall(246, ctypes.c_ulong(0x1000000), ctypes.c_ulong(count), segment, ctypes.c_ulong(62 << 16))
print('loaded' if call(1) == 0 else ctypes.get_errno())
call(0)
""#;

fn kexec(bench: &mut Bench<'_>) -> Result<()> {
    same("kexec before", bench.ok(KEXEC)?, "loaded\n".into())?;
    bench.ok("crtos enable")?;
    same("kexec while enabled", bench.ok(KEXEC)?, "16\n".into())?;
    bench.ok("dmesg | grep 'crtos: no kexec while the hypervisor is enabled'")?;
    bench.ok("crtos disable")?;
    same("kexec afterwards", bench.ok(KEXEC)?, "loaded\n".into())?;
    bench.ok("rmmod crtos").map(drop)
}
