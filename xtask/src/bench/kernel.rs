//! What the kernel's operations take, by the measurements of a server under counted instructions, and how long the kernel is closed to
//! interrupts at most, by a plug-in of QEMU that watches it do everything that takes long.

use std::time::Duration;

use ::tests::standalone::Standalone;
use ::tests::stretch::Report;
use anyhow::{Context, Result, bail};

use super::{Figure, size};
use crate::build::{self, BARE_METAL};
use crate::tree::{Tree, say};

const LIMIT: Duration = Duration::from_secs(600);

/// Names of what the server says, and the most that each may be: of the median, but for what is a maximum.
const LIMITS: [(&str, u64); 14] = [
    ("ipc.call_reply.inter_as.0w", 300),
    ("ipc.call_reply.inter_as.4w", 330),
    ("ipc.call_reply.intra_as.0w", 290),
    ("ipc.call_reply.inter_as.64w", 900),
    ("notify.wake_higher.inter_as", 350),
    ("irq.to_user", 300),
    ("syscall.yield", 150),
    ("syscall.null", 100),
    ("foreign.round_trip", 350),
    ("memory.take_dirty.512p", 2600),
    ("memory.take_dirty.64p", 750),
    ("timer.wake_max", 3500),
    ("timer.wake", 600),
    ("kernel.ram_per_thread", 4096),
];
const IRQ_OFF_MAX: u64 = 3000;
/// Runs in which the longest stretch is looked for: name, manifest, what it says when it is done, and how often it says that.
const STRETCHES: [(&str, &str, &str, usize); 6] = [
    ("bench", "bench", "bench: all measured", 1),
    ("selftest", "selftest", "selftest: all passed", 1),
    ("hostile", "selftest", "hostile: all is as it was", 1),
    ("faults", "faults", " restarted, generation ", 14),
    ("minimal", "minimal", "heartbeat: beat 10", 1),
    ("default", "default", ::tests::realm::READY, 1),
];
/// Calls that the hostile process makes, and its seed: other ones than in the suite.
const HOSTILE: &str = "30000 0x2545f4914f6cdd1d";

/// Boots the images alone and measures.
pub fn measure(tree: &Tree) -> Result<Vec<Figure>> {
    let plugin = build::library(tree, "the interrupt watcher", "stretch")?;
    let mut figures = Vec::new();
    let mut longest = 0;
    for (name, manifest, end, times) in STRETCHES {
        let logs = tree.new_log_directory(&format!("bench-kernel-{name}"))?;
        let mut path = build::manifest(tree, manifest)?;
        if name == "hostile" {
            // Under another name it gets the kernel of all others, that does not check itself in the end.
            path = std::fs::copy(path, logs.join("hostile.toml")).map(|_| logs.join("hostile.toml"))?;
        }
        let realm = build::realm(tree, &path)?;
        let report = Report::create(&logs.join("stretch"))?;
        let mut machine = Standalone::new(realm.directory.join("srtos.elf"), logs).counting();
        machine.arguments.extend(report.arguments(&plugin).map(Into::into));
        if name == "hostile" {
            machine.arguments.extend(["-fw_cfg".into(), format!("name=opt/crtos/hostile,string={HOSTILE}").into()]);
        }
        let mut running = machine.boot()?;
        for _ in 0..times {
            running.wait_for(end, LIMIT)?;
        }
        if name == "bench" {
            figures = said(running.said())?;
        }
        let [instructions, from, to, mostly] = report.read()?;
        if instructions == 0 {
            bail!("the interrupt watcher has seen nothing of {name}");
        }
        say(&format!(
            "{name}: closed to interrupts for up to {instructions} instructions, {from:#x} to {to:#x}, mostly at {mostly:#x}"
        ));
        longest = longest.max(instructions);
    }
    figures.push(Figure::new("kernel.irq_off_max", longest, "instructions").at_most(IRQ_OFF_MAX));
    figures.push(size::kernel_text(&tree.target.join(BARE_METAL).join("release"))?);
    Ok(figures)
}

/// The figures in lines `bench: NAME median M min L max H n N`.
fn said(lines: &[String]) -> Result<Vec<Figure>> {
    LIMITS.iter().map(|(name, limit)| figure(lines, name, *limit)).collect()
}

fn figure(lines: &[String], name: &str, limit: u64) -> Result<Figure> {
    let prefix = format!("bench: {name} ");
    let line =
        lines.iter().find_map(|line| line.strip_prefix(&prefix)).with_context(|| format!("no {name} is said"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["median", median, "min", min, "max", max, "n", n] = words[..] else { bail!("{name}: {line}") };
    let (median, min, max, n) = (median.parse()?, min.parse()?, max.parse()?, n.parse()?);
    let value = if name.ends_with("_max") { max } else { median };
    let unit = if name.starts_with("kernel.") { "bytes" } else { "instructions" };
    Ok(Figure::new(name, value, unit).at_most(limit).of([median, min, max, n]))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_is_said_becomes_a_figure() {
        let lines =
            ["bench: a.b median 5 min 4 max 9 n 3".to_owned(), "bench: w_max median 5 min 4 max 9 n 3".to_owned()];
        let of = |name: &str, limit| figure(&lines, name, limit).unwrap();
        assert_eq!((of("a.b", 5).value, of("a.b", 5).kept(), of("a.b", 4).kept()), (5, true, false));
        assert_eq!((of("w_max", 9).value, of("w_max", 9).spread), (9, Some([5, 4, 9, 3])));
        assert!(figure(&lines, "a", 1).is_err());
    }
}
